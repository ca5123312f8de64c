//! The grammar of `LLM_PARAMS`, and the changes to bodies, with random input.

use proptest::prelude::*;
use reprise::testing::{Config, ConfigError, Document, Endpoint, RequestTarget, transform};
use serde_json::{Map, Value};
use std::collections::BTreeMap;

fn config(vars: &[(&str, &str)]) -> Result<Config, ConfigError> {
    Config::read(|name| vars.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned()))
}

/// A text in the syntax of `LLM_PARAMS`. `how` chooses among its spellings.
fn spelled(text: &str, how: u8) -> String {
    let mut out = String::new();
    let mut units = [0; 2];
    for character in text.chars() {
        match (character, how % 3) {
            ('a'..='z', 0 | 1) => out.push(character),
            ('\n', 0) => out.push_str("\\n"),
            (',' | ';' | '\\', 0) => out.extend(['\\', character]),
            ('é' | '😀' | '=' | '"', 0 | 1) => out.push(character),
            _ => {
                for unit in character.encode_utf16(&mut units) {
                    out.push_str(&if how.is_multiple_of(2) {
                        format!("\\u{unit:04x}")
                    } else {
                        format!("\\u{unit:04X}")
                    });
                }
            }
        }
    }
    out
}

fn text() -> impl Strategy<Value = String> {
    prop::collection::vec(
        prop::sample::select(vec!['a', 'z', ' ', '\n', ',', ';', '\\', '=', '"', 'é', '😀', '\0']),
        1..8,
    )
    .prop_map(|characters| characters.into_iter().collect())
}

/// Any JSON without duplicate keys.
fn json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        prop::sample::select(vec!["1.50", "12345678901234567890123", "-0.0", "1e400"])
            .prop_map(|n| serde_json::from_str(n).unwrap()),
        "[a-c\"\\\\{}\\[\\],: é]{0,6}".prop_map(Value::from),
    ];
    leaf.prop_recursive(3, 24, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::btree_map("[a-c\"\\\\{}\\[\\],: ]{0,3}", inner, 0..4)
                .prop_map(|members| Value::Object(members.into_iter().collect())),
        ]
    })
}

fn transformed(config: &Config, provider: &str, text: &str) -> Option<String> {
    let document = Document::parse(text.as_bytes()).unwrap();
    let upstream = config.routing.upstreams.iter().find(|upstream| upstream.name == provider).unwrap();
    let target = RequestTarget {
        upstream,
        url: "http://h/v1/chat/completions",
        endpoint: Some(Endpoint::ChatCompletions),
        dropped: &[],
    };
    transform(config, target, text, &document).body.map(|body| String::from_utf8(body).unwrap())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn llm_params_are_read_as_they_are_written(
        groups in prop::collection::btree_map(text(), prop::collection::btree_map("[b-z]{1,4}", text(), 0..4), 1..4),
        how in any::<u8>(),
    ) {
        let blanks = |text: &str| text.trim().len() != text.len() && how % 3 != 2;
        prop_assume!(!groups.iter().any(|(model, fields)| blanks(model) || fields.values().any(|value| blanks(value))));
        let written: Vec<String> = groups.iter().map(|(model, fields)| {
            let pairs: Vec<String> = fields.iter().map(|(key, value)| format!(" {key} ={}", spelled(value, how))).collect();
            let model = format!("model={}", spelled(model, how));
            let mut all = pairs;
            all.insert(usize::from(how) % (all.len() + 1), model);
            all.join(",")
        }).collect();
        let read = config(&[("LLM_PARAMS", &written.join(";\n"))]).unwrap();
        for (model, fields) in &groups {
            let params = read.transforms.llm_params.of(Some(model)).unwrap();
            let got: BTreeMap<String, Value> =
                params.fields.iter().map(|(key, value)| (key.clone(), serde_json::from_str(value).unwrap())).collect();
            for (key, value) in fields {
                // Words such as `true` would need an escape to be strings. There are none here.
                prop_assert_eq!(&got[key], &Value::from(value.as_str()));
            }
            prop_assert_eq!(got.len(), fields.len());
        }
    }

    #[test]
    fn llm_params_are_read_or_refused_with_the_place(text in "[model=,;\\\\u0-9a-f\"\\n .éx]{0,40}") {
        match config(&[("LLM_PARAMS", &format!("model=m,{text}"))]) {
            Ok(_) => {}
            Err(error) => {
                prop_assert_eq!(error.variable.as_ref(), "LLM_PARAMS");
                let (_, after) = error.message.split_once("at byte ").unwrap();
                let at: usize = after.split(':').next().unwrap().parse().unwrap();
                prop_assert!(at <= text.len() + 8, "{at}");
            }
        }
    }

    #[test]
    fn upstreams_are_read_or_refused_with_the_place(text in "[\\{\\}\\[\\]\":,a-c]{0,20}") {
        if let Err(error) = config(&[("UPSTREAMS", &text)]) {
            let placed = error.message.contains("at byte ");
            prop_assert!(placed || text.trim().is_empty(), "{}", error.message);
        }
    }

    #[test]
    fn a_transform_changes_only_its_own_fields(
        members in prop::collection::btree_map("[a-e]{1,2}", json(), 0..6),
        order in any::<bool>(),
        pretty in any::<bool>(),
    ) {
        let names: Vec<&String> = if order { members.keys().collect() } else { members.keys().rev().collect() };
        let body: Map<String, Value> = names.into_iter().map(|name| (name.clone(), members[name].clone())).collect();
        let body = Value::Object(body);
        let text = if pretty { serde_json::to_string_pretty(&body).unwrap() } else { body.to_string() };
        let vars = [
            ("UPSTREAMS", r#"{"x":{"base_url":"http://h","drop_params":["a","bb"]}}"#),
            ("LLM_PARAMS", "model=default,c=0.50,zz=t"),
        ];
        let config = config(&vars).unwrap();
        let mut expected = body.as_object().unwrap().clone();
        expected.shift_remove("a");
        expected.shift_remove("bb");
        expected.insert("c".to_owned(), serde_json::from_str("0.50").unwrap());
        expected.insert("zz".to_owned(), "t".into());
        let changed = transformed(&config, "x", &text).unwrap();
        // Equal members, in equal order, with equal number tokens.
        prop_assert_eq!(serde_json::from_str::<Value>(&changed).unwrap().to_string(), Value::Object(expected).to_string());
        // A body that no transform applies to is not changed.
        let without = config_without();
        prop_assert_eq!(transformed(&without, "groq", &text), None);
    }
}

fn config_without() -> Config {
    config(&[]).unwrap()
}
