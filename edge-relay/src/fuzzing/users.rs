//! The users file: read whatever is in it; what was understood is kept when a user is removed.

use fuzz_harness::within;

use crate::users;

pub(super) fn users(data: &[u8]) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("users");
    std::fs::write(&path, data).unwrap();
    verify(&path);
    within((1 << 20) + data.len() * 64, || {
        let Ok(names) = users::list(&path) else {
            assert!(users::Users::open(Some(&path)).is_err());
            return;
        };
        users::Users::open(Some(&path)).unwrap();
        let Some((gone, left)) = names.split_first() else {
            return;
        };
        users::remove(&path, gone).unwrap();
        assert_eq!(users::list(&path).unwrap(), left);
    });
}

/// A password is checked by what the file says, and must not cost more memory than there is.
fn verify(path: &std::path::Path) {
    let Some(name) = users::list(path)
        .ok()
        .and_then(|names| names.first().cloned())
    else {
        return;
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .build()
        .unwrap();
    let open = users::Users::open(Some(path)).unwrap();
    assert!(
        !runtime.block_on(open.verify(&name, b"not it")),
        "any password will do for {name}"
    );
}
