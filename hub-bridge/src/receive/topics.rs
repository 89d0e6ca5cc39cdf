//! Where plain readings are at the hub: a topic template, read backwards.

use crate::identity::VillageId;
use crate::settings::TopicTemplate;

/// A template as a topic filter, and as what takes a topic apart again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PlainTopics {
    levels: Vec<Level>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Level {
    Text(String),
    Village,
    Client,
    Topic,
}

/// What a topic at the hub says of a reading.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PlainTopic<'a> {
    /// The village.
    pub village: VillageId,
    /// The publishing client, as far as a topic can name it; empty where the template does not.
    pub client_id: &'a str,
    /// The topic that the meter published to.
    pub topic: &'a str,
}

/// Why a template cannot be read backwards.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "must have {{village_id}} and {{client_id}} as whole levels and end in /{{topic}}, to be read backwards"
)]
pub struct NotReadable;

impl PlainTopics {
    /// Of a template.
    ///
    /// # Errors
    /// Where topics could not be taken apart again.
    pub fn new(template: &TopicTemplate) -> Result<Self, NotReadable> {
        let text = template.to_string();
        let levels: Vec<Level> = text
            .split('/')
            .map(|level| match level {
                "{village_id}" => Ok(Level::Village),
                "{client_id}" => Ok(Level::Client),
                "{topic}" => Ok(Level::Topic),
                text if text.contains('{') => Err(NotReadable),
                text => Ok(Level::Text(text.to_owned())),
            })
            .collect::<Result<_, _>>()?;
        let count = |wanted: &Level| levels.iter().filter(|level| *level == wanted).count();
        let once = count(&Level::Village) == 1 && count(&Level::Client) <= 1;
        if once && count(&Level::Topic) == 1 && levels.last() == Some(&Level::Topic) {
            Ok(Self { levels })
        } else {
            Err(NotReadable)
        }
    }

    /// What to subscribe to.
    pub fn filter(&self) -> String {
        let levels = self.levels.iter().map(|level| match level {
            Level::Text(text) => text.as_str(),
            Level::Village | Level::Client => "+",
            Level::Topic => "#",
        });
        levels.collect::<Vec<_>>().join("/")
    }

    /// Takes a topic apart; `None` where it is none of a reading's.
    pub fn read<'a>(&self, topic: &'a str) -> Option<PlainTopic<'a>> {
        let mut rest = Some(topic);
        let mut village = None;
        let mut client_id = "";
        for level in &self.levels {
            let here = rest?;
            if *level == Level::Topic {
                return Some(PlainTopic {
                    village: village?,
                    client_id,
                    topic: here,
                });
            }
            let (first, after) = match here.split_once('/') {
                Some((first, after)) => (first, Some(after)),
                None => (here, None),
            };
            rest = after;
            match level {
                Level::Text(text) if text == first => {}
                Level::Village => village = Some(first.parse().ok()?),
                Level::Client => client_id = first,
                Level::Text(_) | Level::Topic => return None,
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_relay_renders_is_read_back() {
        let village: VillageId = "bamenda-01".parse().unwrap();
        for (text, filter) in [
            ("villages/{village_id}/{topic}", "villages/+/#"),
            ("a/{client_id}/b/{village_id}/{topic}", "a/+/b/+/#"),
            ("{village_id}/{topic}", "+/#"),
        ] {
            let template: TopicTemplate = text.parse().unwrap();
            let topics = PlainTopics::new(&template).unwrap();
            assert_eq!(topics.filter(), filter);
            for topic in ["m", "m/1", "/m//1/", "été"] {
                let rendered = template.render(&village, "client", topic);
                let read = topics.read(&rendered).unwrap();
                assert_eq!((&read.village, read.topic), (&village, topic), "{text}");
                assert!(["client", ""].contains(&read.client_id));
            }
        }
        let topics = PlainTopics::new(&TopicTemplate::default()).unwrap();
        for other in ["villages/bamenda-01", "other/v/t", "villages/a b/t", ""] {
            assert_eq!(topics.read(other), None, "{other}");
        }
    }

    #[test]
    fn a_template_that_cannot_be_read_back_is_refused() {
        for text in [
            "v-{village_id}/{topic}",
            "{village_id}/{topic}/x",
            "{village_id}",
        ] {
            assert!(PlainTopics::new(&text.parse().unwrap()).is_err(), "{text}");
        }
    }
}
