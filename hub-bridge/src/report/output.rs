//! A file that has its name only when it is whole.

use std::fs::File;
use std::io::BufWriter;
use std::path::{Path, PathBuf};

use super::ReportError;
use super::write::Out;

/// A file that is being written, beside where it will be. Removed where it is not ended.
pub(super) struct Part {
    path: PathBuf,
    file: File,
}

impl Drop for Part {
    fn drop(&mut self) {
        // After `end` there is none; else what is left is half a report.
        let _ = std::fs::remove_file(&self.path);
    }
}

pub(super) fn begin(path: &Path) -> Result<(Part, Out), ReportError> {
    let mut part = path.as_os_str().to_owned();
    part.push(format!(".{}.part", std::process::id()));
    let part = PathBuf::from(part);
    let failed = |error| ReportError::File {
        path: part.clone(),
        error,
    };
    let file = File::create(&part).map_err(failed)?;
    let out = file.try_clone().map_err(failed)?;
    Ok((Part { path: part, file }, Box::new(BufWriter::new(out))))
}

pub(super) fn end(part: &Part, path: &Path) -> Result<(), ReportError> {
    let done = part
        .file
        .sync_all()
        .and_then(|()| std::fs::rename(&part.path, path));
    done.map_err(|error| ReportError::File {
        path: path.to_owned(),
        error,
    })
}
