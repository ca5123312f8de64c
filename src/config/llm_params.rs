//! `LLM_PARAMS`: parameters for each model.
//!
//! ```text
//! LLM_PARAMS = group *( ";" group )          empty groups are ignored
//! group      = pair *( "," pair )            exactly one of the pairs is model=NAME
//! pair       = key "=" value                 blanks around both are ignored
//! ```
//!
//! A value is `null`, `true`, `false`, a JSON number (its spelling is kept), or else a string. Strings may have the escapes
//! `\n`, `\r`, `\t`, `\\`, `\,`, `\;` and `\uXXXX`. A value with an escape is a string, and an empty value is `null`.

use super::ConfigError;
use crate::json::canonical::Document;
use crate::json::{self, JsonCursor};

/// The parameters of all models.
#[derive(Debug, Clone, Default)]
pub struct LlmParams(Vec<ModelParams>);

/// The parameters of one model.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ModelParams {
    /// The model in requests; `default`: requests that name none.
    pub model: String,
    /// `upstream_model_name`: the model that is sent upstream.
    pub upstream_model: Option<String>,
    /// `append_to_last_user_message`.
    pub append: Option<String>,
    /// `enable_think_tag_filtering`; `None`: `STRIP_THINK` decides.
    pub filter_think: Option<bool>,
    /// `think_tag_start`.
    pub think_start: Option<String>,
    /// `think_tag_end`.
    pub think_end: Option<String>,
    /// Body fields: (name, value as JSON), in their order.
    pub fields: Vec<(String, String)>,
}

/// The model of requests that name none.
const DEFAULT: &str = "default";

impl LlmParams {
    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The parameters of the model that a request names.
    pub fn of(&self, model: Option<&str>) -> Option<&ModelParams> {
        let model = model.unwrap_or(DEFAULT);
        self.0.iter().find(|params| params.model == model)
    }

    /// The models that only the proxy knows: those with an `upstream_model_name`.
    pub fn pseudo_models(&self) -> impl Iterator<Item = &str> {
        let pseudo = |params: &&ModelParams| params.upstream_model.is_some() && params.model != DEFAULT;
        self.0.iter().filter(pseudo).map(|params| params.model.as_str())
    }

    /// Reads the variable.
    ///
    /// # Errors
    /// The first mistake, with its place. The message repeats no value.
    pub(super) fn read(text: &str) -> Result<LlmParams, ConfigError> {
        let mut all: Vec<ModelParams> = Vec::new();
        for (at, group) in split(text, ';', 0) {
            if group.trim().is_empty() {
                continue;
            }
            let params = group_of(group, at)?;
            if all.iter().any(|other| other.model == params.model) {
                return Err(error_at(start(group, at), "a model without a group"));
            }
            all.push(params);
        }
        Ok(LlmParams(all))
    }
}

fn error_at(at: usize, expected: &str) -> ConfigError {
    ConfigError::new("LLM_PARAMS", format!("has a mistake at byte {at}: expected {expected}. Correct it there."))
}

/// The parts between unescaped separators, with their places.
fn split(text: &str, separator: char, base: usize) -> Vec<(usize, &str)> {
    let mut parts = Vec::new();
    let mut from = 0;
    let mut escaped = false;
    for (at, character) in text.char_indices() {
        if character == separator && !escaped {
            parts.push((base.saturating_add(from), text.get(from..at).unwrap_or_default()));
            from = at.saturating_add(1);
        }
        escaped = character == '\\' && !escaped;
    }
    parts.push((base.saturating_add(from), text.get(from..).unwrap_or_default()));
    parts
}

/// The place of a part's first character that is no blank.
fn start(part: &str, at: usize) -> usize {
    at.saturating_add(part.len().saturating_sub(part.trim_start().len()))
}

fn group_of(group: &str, at: usize) -> Result<ModelParams, ConfigError> {
    let mut params = ModelParams::default();
    let mut named = false;
    let mut seen: Vec<&str> = Vec::new();
    for (at, pair) in split(group, ',', at) {
        if pair.trim().is_empty() {
            continue;
        }
        let key_at = start(pair, at);
        let (key, value) = pair.split_once('=').ok_or_else(|| error_at(key_at, "key=value"))?;
        let value_at = start(value, at.saturating_add(key.len()).saturating_add(1));
        let (key, value) = (key.trim(), value.trim());
        if key.is_empty() || key.contains('\\') {
            return Err(error_at(key_at, "a key before the '='"));
        }
        if seen.contains(&key) {
            return Err(error_at(key_at, "a key that is not in this group yet"));
        }
        seen.push(key);
        let text = || Ok(Some(unescape(value, value_at)?).filter(|text| !text.is_empty()));
        let some = || text()?.ok_or_else(|| error_at(value_at, "a string that is not empty"));
        match key {
            "model" => {
                params.model = some()?;
                named = true;
            }
            "upstream_model_name" => params.upstream_model = Some(some()?),
            "append_to_last_user_message" => params.append = text()?,
            "think_tag_start" => params.think_start = Some(some()?),
            "think_tag_end" => params.think_end = Some(some()?),
            "enable_think_tag_filtering" => {
                let read = crate::http::fields::boolean(value);
                params.filter_think = Some(read.ok_or_else(|| error_at(value_at, "true or false"))?);
            }
            _ => params.fields.push((key.to_owned(), typed(value, value_at)?)),
        }
    }
    if named { Ok(params) } else { Err(error_at(start(group, at), "model=NAME in this group")) }
}

/// A value as JSON.
fn typed(value: &str, at: usize) -> Result<String, ConfigError> {
    if value.is_empty() || value.eq_ignore_ascii_case("null") {
        return Ok("null".to_owned());
    }
    for word in ["true", "false"] {
        if value.eq_ignore_ascii_case(word) {
            return Ok(word.to_owned());
        }
    }
    if is_number(value) {
        return Ok(value.to_owned());
    }
    // `.5`, `5.` and `+5` are meant as numbers, but JSON has no such numbers.
    let numeric = value.starts_with(|first: char| first.is_ascii_digit() || matches!(first, '+' | '-' | '.'));
    if numeric && value.parse::<f64>().is_ok() && value.contains(|c: char| c.is_ascii_digit()) {
        return Err(error_at(at, "a JSON number, such as 0.5"));
    }
    let to_json_string = json::to_json_string(unescape(value, at)?.as_bytes());
    String::from_utf8(to_json_string).map_err(|_| error_at(at, "UTF-8"))
}

/// Whether it is a JSON number.
fn is_number(value: &str) -> bool {
    let numeric = value.bytes().all(|byte| byte.is_ascii_digit() || matches!(byte, b'-' | b'+' | b'.' | b'e' | b'E'));
    numeric && Document::parse(value.as_bytes()).is_ok()
}

fn unescape(value: &str, at: usize) -> Result<String, ConfigError> {
    let mut out = String::with_capacity(value.len());
    let mut rest = value;
    while let Some((plain, escape)) = rest.split_once('\\') {
        out.push_str(plain);
        let here = at.saturating_add(value.len().saturating_sub(escape.len()).saturating_sub(1));
        let single = match escape.chars().next() {
            Some('n') => Some('\n'),
            Some('r') => Some('\r'),
            Some('t') => Some('\t'),
            Some(same @ ('\\' | ',' | ';')) => Some(same),
            Some('u') => None,
            _ => return Err(error_at(here, r"one of the escapes \n, \r, \t, \\, \,, \; and \uXXXX")),
        };
        let length = match single {
            Some(character) => {
                out.push(character);
                1
            }
            None => {
                let (text, length) =
                    unit(escape).ok_or_else(|| error_at(here, r"four hexadecimal digits after \u, or a whole pair"))?;
                out.push_str(&text);
                length
            }
        };
        rest = escape.get(length..).unwrap_or_default();
    }
    out.push_str(rest);
    Ok(out)
}

/// The character of `uXXXX` or `uXXXX\uXXXX`, and the length of that escape.
fn unit(escape: &str) -> Option<(String, usize)> {
    let read = |length: usize| {
        let spelled = escape.get(..length)?;
        let hexadecimal = spelled.split("\\u").all(|part| {
            let digits = part.strip_prefix('u').unwrap_or(part);
            digits.len() == 4 && digits.bytes().all(|byte| byte.is_ascii_hexdigit())
        });
        let text = hexadecimal.then(|| JsonCursor::root(&format!("\"\\{spelled}\"")).as_string())??;
        Some((text, length))
    };
    read(5).or_else(|| read(11))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> LlmParams {
        LlmParams::read(text).unwrap()
    }

    #[test]
    fn the_whole_grammar_is_read() {
        let text = r"model=Qwen3-32B-Non-Thinking, upstream_model_name = Qwen3-32B,temperature=0.70,top_k=20,
            n=1e2,echo=True,stop=NULL,empty=,user=u\u002c\u003b\,\;\\,date=2024-01-01,append_to_last_user_message=\n\n/no_think,
            enable_think_tag_filtering=TRUE,think_tag_start=\u003cthink\u003e,think_tag_end=</think>\n\n;
            temperature=1,model=default;;";
        let all = read(text);
        let qwen = all.of(Some("Qwen3-32B-Non-Thinking")).unwrap();
        assert_eq!(qwen.upstream_model.as_deref(), Some("Qwen3-32B"));
        assert_eq!(qwen.append.as_deref(), Some("\n\n/no_think"));
        assert_eq!(qwen.filter_think, Some(true));
        assert_eq!(qwen.think_start.as_deref(), Some("<think>"));
        assert_eq!(qwen.think_end.as_deref(), Some("</think>\n\n"));
        let fields: Vec<(&str, &str)> = qwen.fields.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect();
        let expected = [
            ("temperature", "0.70"),
            ("top_k", "20"),
            ("n", "1e2"),
            ("echo", "true"),
            ("stop", "null"),
            ("empty", "null"),
            ("user", r#""u,;,;\\""#),
            ("date", r#""2024-01-01""#),
        ];
        assert_eq!(fields, expected);
        assert_eq!(all.of(None).unwrap().fields, [("temperature".to_owned(), "1".to_owned())]);
        assert!(all.of(Some("other")).is_none());
        assert_eq!(all.pseudo_models().collect::<Vec<_>>(), ["Qwen3-32B-Non-Thinking"]);
    }

    #[test]
    fn strings_and_numbers_are_distinguished() {
        for (value, json) in [
            ("1", "1"),
            ("-0.0", "-0.0"),
            ("12345678901234567890123", "12345678901234567890123"),
            (r"\u0031", "\"1\""),
            ("1.2.3", "\"1.2.3\""),
            ("1a", "\"1a\""),
            ("a=b", "\"a=b\""),
            ("-", "\"-\""),
            ("inf", "\"inf\""),
            ("\"q\"", r#""\"q\"""#),
            (r"\ud83d\ude00é", "\"😀é\""),
            ("01a", "\"01a\""),
        ] {
            let all = read(&format!("model=m,x={value}"));
            assert_eq!(all.of(Some("m")).unwrap().fields, [("x".to_owned(), json.to_owned())], "{value}");
        }
    }

    #[test]
    fn a_mistake_is_reported_with_its_place() {
        for (text, at) in [
            ("temperature=1", 0),
            ("model=m,temperature", 8),
            ("model=m, =1", 9),
            ("model=", 6),
            ("model=a;model=b,x=1; model=a", 21),
            ("model=m,x=1,x=2", 12),
            (r"model=m,x=a\q", 11),
            (r"model=m,x=a\u12", 11),
            (r"model=m,x=\ud800", 10),
            (r"model=m,x=\u+123", 10),
            ("model=m,x=a\\", 11),
            ("model=m,x=.5", 10),
            ("model=m,x=+1", 10),
            ("model=m,x=01", 10),
            ("model=m,enable_think_tag_filtering=maybe", 35),
            ("model=m,think_tag_start=", 24),
            ("model=m,upstream_model_name= ", 29),
            ("model=é,x=.5", 11),
        ] {
            let message = LlmParams::read(text).unwrap_err().message;
            assert!(message.contains(&format!("at byte {at}:")), "{text}: {message}");
        }
    }
}
