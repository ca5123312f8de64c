//! Every test that SECURITY.md names exists.

use std::path::Path;

#[test]
fn every_test_that_is_promised_exists() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let text = std::fs::read_to_string(root.join("SECURITY.md")).unwrap();
    let named = regex::Regex::new("`([^`›]+) › ([^`]+)`").unwrap();
    let mut found = 0;
    for promise in named.captures_iter(&text) {
        let (file, name) = (&promise[1], &promise[2]);
        let source = std::fs::read_to_string(root.join(file)).unwrap_or_else(|error| panic!("{file}: {error}"));
        let wanted = match file.rsplit_once('.').unwrap().1 {
            "rs" if name == "fuzz_target" => "fuzz_target!(".to_owned(),
            "rs" => format!("fn {name}()"),
            "json" => format!("\"id\": \"{name}\""),
            _ => name.to_owned(),
        };
        let exists = source.contains(&wanted) || file.ends_with(".rs") && source.contains(&format!("fn {name}("));
        assert!(exists, "{file} has no test {name}");
        found += 1;
    }
    assert!(found > 40, "only {found} tests are named");
    // A row that names no test promises nothing.
    for row in text.lines().filter(|line| line.starts_with("| ") && !line.starts_with("| promise")) {
        assert!(row.contains(" › "), "no test for: {row}");
    }
}
