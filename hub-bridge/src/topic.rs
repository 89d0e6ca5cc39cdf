//! Where a reading is published at the hub: a template over village, publishing client and topic.

use std::fmt;
use std::str::FromStr;

use crate::identity::VillageId;

/// A topic such as `villages/{village_id}/{topic}`. Always has `{village_id}`; may have `{topic}` and
/// `{client_id}`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TopicTemplate {
    parts: Vec<Part>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Part {
    Text(String),
    Village,
    Client,
    Topic,
}

/// Why a text is not a topic template.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidTopicTemplate {
    /// Two villages would share one topic.
    #[error("must contain {{village_id}}")]
    NoVillage,
    /// A name in braces that means nothing here.
    #[error("{{{0}}} is unknown; known are {{village_id}}, {{client_id}} and {{topic}}")]
    Unknown(String),
    /// A brace without its other half.
    #[error("has a brace without its other half")]
    Brace,
    /// Not allowed in a topic name (MQTT 5, 4.7.1 and 4.7.3), or a leading `$`.
    #[error("must not contain + # or NUL, nor begin with $")]
    Character,
}

impl TopicTemplate {
    /// The topic name of one reading at the hub. A client id with characters that a topic name cannot
    /// have (`/`, `+`, `#`, NUL) has them replaced by `_`.
    pub fn render(&self, village: &VillageId, client_id: &str, topic: &str) -> String {
        let mut name = String::with_capacity(topic.len() + 32);
        for part in &self.parts {
            match part {
                Part::Text(text) => name.push_str(text),
                Part::Village => name.push_str(village.as_str()),
                Part::Client => name.extend(client_id.chars().map(|c| match c {
                    '/' | '+' | '#' | '\0' => '_',
                    other => other,
                })),
                Part::Topic => name.push_str(topic),
            }
        }
        name
    }
}

impl Default for TopicTemplate {
    fn default() -> Self {
        Self {
            parts: vec![
                Part::Text("villages/".to_owned()),
                Part::Village,
                Part::Text("/".to_owned()),
                Part::Topic,
            ],
        }
    }
}

impl FromStr for TopicTemplate {
    type Err = InvalidTopicTemplate;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text.starts_with('$') || text.contains(['+', '#', '\0']) {
            return Err(InvalidTopicTemplate::Character);
        }
        let mut parts = Vec::new();
        let mut rest = text;
        while let Some((before, after)) = rest.split_once('{') {
            let (name, after) = after.split_once('}').ok_or(InvalidTopicTemplate::Brace)?;
            if !before.is_empty() {
                parts.push(Part::Text(before.to_owned()));
            }
            parts.push(match name {
                "village_id" => Part::Village,
                "client_id" => Part::Client,
                "topic" => Part::Topic,
                other => return Err(InvalidTopicTemplate::Unknown(other.to_owned())),
            });
            rest = after;
        }
        if !rest.is_empty() {
            parts.push(Part::Text(rest.to_owned()));
        }
        if parts
            .iter()
            .any(|p| matches!(p, Part::Text(t) if t.contains(['{', '}'])))
        {
            return Err(InvalidTopicTemplate::Brace);
        }
        if !parts.contains(&Part::Village) {
            return Err(InvalidTopicTemplate::NoVillage);
        }
        Ok(Self { parts })
    }
}

impl fmt::Display for TopicTemplate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for part in &self.parts {
            f.write_str(match part {
                Part::Text(text) => text,
                Part::Village => "{village_id}",
                Part::Client => "{client_id}",
                Part::Topic => "{topic}",
            })?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_template_renders_what_it_names() {
        let village: VillageId = "bamenda-01".parse().unwrap();
        let template: TopicTemplate = "v/{village_id}/{client_id}/{topic}".parse().unwrap();
        assert_eq!(
            template.render(&village, "m/1", "a/été"),
            "v/bamenda-01/m_1/a/été"
        );
        assert_eq!(
            TopicTemplate::default().render(&village, "m", "t"),
            "villages/bamenda-01/t"
        );
        assert_eq!(
            template.to_string().parse::<TopicTemplate>().unwrap(),
            template
        );
    }

    #[test]
    fn a_template_without_its_village_is_refused() {
        use InvalidTopicTemplate as E;
        let cases = [
            ("all/{topic}", E::NoVillage),
            ("{village_id}/{x}", E::Unknown("x".to_owned())),
            ("{village_id", E::Brace),
            ("{village_id}/}", E::Brace),
            ("{village_id}/#", E::Character),
            ("$x/{village_id}", E::Character),
        ];
        for (text, error) in cases {
            assert_eq!(text.parse::<TopicTemplate>(), Err(error), "{text}");
        }
    }
}
