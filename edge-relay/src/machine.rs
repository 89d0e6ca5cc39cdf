//! Which machine this is: a store that wakes on another one begins a new epoch.

/// The serial number of the board where the firmware tells it, since a cloned card keeps its
/// `/etc/machine-id`; else that id; else `unknown`.
pub fn id() -> String {
    const SOURCES: [(&str, &str); 2] = [
        ("board", "/sys/firmware/devicetree/base/serial-number"),
        ("machine", "/etc/machine-id"),
    ];
    for (kind, path) in SOURCES {
        if let Ok(text) = std::fs::read_to_string(path) {
            let id: String = text
                .chars()
                .filter(char::is_ascii_alphanumeric)
                .take(64)
                .collect();
            if !id.is_empty() {
                return format!("{kind}-{id}");
            }
        }
    }
    "unknown".to_owned()
}
