//! Reads the variables.

use super::ConfigError;
use crate::http::fields::boolean;

/// The operator's variables.
pub struct Vars<'a, F>(pub &'a F);

impl<F: Fn(&str) -> Option<String>> Vars<'_, F> {
    /// A variable's text; an empty one counts as unset.
    pub fn text(&self, name: &str) -> Option<String> {
        let text = (self.0)(name)?.trim().to_owned();
        (!text.is_empty()).then_some(text)
    }

    /// A variable's text, untrimmed.
    pub fn untrimmed(&self, name: &str) -> Option<String> {
        (self.0)(name).filter(|text| !text.trim().is_empty())
    }

    pub fn parse<T>(
        &self,
        variable: &'static str,
        expected: &str,
        read: impl Fn(&str) -> Option<T>,
    ) -> Result<Option<T>, ConfigError> {
        let Some(text) = self.text(variable) else {
            return Ok(None);
        };
        read(&text)
            .map(Some)
            .ok_or_else(|| ConfigError::new(variable, format!("must be {expected}. Correct or unset it.")))
    }

    pub fn flag(&self, variable: &'static str, default: bool) -> Result<bool, ConfigError> {
        let value = self.parse(variable, "true or false", boolean)?;
        Ok(value.unwrap_or(default))
    }

    /// The name that is set of two, by preference the first.
    pub fn alias(&self, name: &'static str, other: &'static str) -> &'static str {
        let set = self.text(name).is_some() || self.text(other).is_none();
        if set { name } else { other }
    }
}
