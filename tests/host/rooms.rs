//! A room of `src/` imports only rooms above it in the list of `lib.rs`.

use std::path::Path;

/// From the bottom up.
const ROOMS: [&str; 14] = [
    "json",
    "http",
    "key",
    "status",
    "config",
    "routing",
    "protocol",
    "cache",
    "auth",
    "transform",
    "ledger",
    "telemetry",
    "proxy",
    "worker",
];

#[test]
fn no_room_imports_one_above_it() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let lib = std::fs::read_to_string(root.join("lib.rs")).unwrap();
    let declared: Vec<&str> = lib
        .lines()
        .filter_map(|line| line.trim_start_matches("pub(crate) ").strip_prefix("mod ")?.strip_suffix(';'))
        .collect();
    assert_eq!(declared, ROOMS, "the rooms in the order of lib.rs");
    let import = regex::Regex::new(r"\bcrate::(\w+)").unwrap();
    let mut files = 0;
    let mut upward = Vec::new();
    for (height, room) in ROOMS.iter().enumerate() {
        let mut folders = vec![root.join(room)];
        while let Some(folder) = folders.pop() {
            for entry in std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()) {
                if entry.is_dir() {
                    folders.push(entry);
                } else if entry.extension().is_some_and(|extension| extension == "rs") {
                    files += 1;
                    let text = std::fs::read_to_string(&entry).unwrap();
                    for found in import.captures_iter(&text) {
                        let imported = ROOMS.iter().position(|room| *room == &found[1]);
                        let imported = imported.unwrap_or_else(|| panic!("{}: {}", entry.display(), &found[0]));
                        if imported > height {
                            upward.push(format!("{}: {}", entry.display(), &found[0]));
                        }
                    }
                }
            }
        }
    }
    assert!(files > 60, "only {files} files found");
    assert!(upward.is_empty(), "{upward:#?}");
}
