//! Topic names and topic filters (MQTT 5, 4.7), in any language.
//!
//! rumqttd's `matches` slices the first *byte* of a topic and panics where it is not ASCII, and its
//! checks let NUL and wildcards through: these are our own.

/// Why a text is no topic name or no topic filter.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum InvalidTopic {
    /// At least one character is needed [MQTT-4.7.3-1].
    #[error("it is empty")]
    Empty,
    /// U+0000 is not allowed [MQTT-4.7.3-2].
    #[error("it contains NUL")]
    Nul,
    /// A topic name has no wildcards [MQTT-3.3.2-2].
    #[error("a topic name must not contain + or #")]
    WildcardInName,
    /// `#` stands alone in the last level, `+` alone in its level [MQTT-4.7.1-1] [MQTT-4.7.1-2].
    #[error("# must be the whole last level and + a whole level")]
    MisplacedWildcard,
    /// `$share/{name}/{filter}`, with a name and a filter [MQTT-4.8.2-1] [MQTT-4.8.2-2].
    #[error("a shared subscription is $share/NAME/FILTER, and NAME has no +, #")]
    BadShare,
}

/// Checks a topic name as a PUBLISH carries it.
pub fn check_name(topic: &str) -> Result<(), InvalidTopic> {
    if topic.is_empty() {
        return Err(InvalidTopic::Empty);
    }
    for byte in topic.bytes() {
        match byte {
            0 => return Err(InvalidTopic::Nul),
            b'+' | b'#' => return Err(InvalidTopic::WildcardInName),
            _ => {}
        }
    }
    Ok(())
}

/// A topic filter, taken apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Filter<'a> {
    /// The group of a shared subscription.
    pub share: Option<&'a str>,
    /// What is matched, without `$share/NAME/`.
    pub pattern: &'a str,
}

/// Checks a topic filter as SUBSCRIBE and UNSUBSCRIBE carry it, and takes it apart.
pub fn parse_filter(filter: &str) -> Result<Filter<'_>, InvalidTopic> {
    let Some(rest) = filter.strip_prefix("$share/") else {
        check_pattern(filter)?;
        return Ok(Filter {
            share: None,
            pattern: filter,
        });
    };
    let (name, pattern) = rest.split_once('/').ok_or(InvalidTopic::BadShare)?;
    if name.is_empty() || name.contains(['+', '#', '\0']) || pattern.is_empty() {
        return Err(InvalidTopic::BadShare);
    }
    check_pattern(pattern)?;
    Ok(Filter {
        share: Some(name),
        pattern,
    })
}

fn check_pattern(pattern: &str) -> Result<(), InvalidTopic> {
    if pattern.is_empty() {
        return Err(InvalidTopic::Empty);
    }
    let mut levels = pattern.split('/').peekable();
    while let Some(level) = levels.next() {
        if level.contains('\0') {
            return Err(InvalidTopic::Nul);
        }
        let wild = level.contains(['+', '#']);
        let alone = level == "+" || (level == "#" && levels.peek().is_none());
        if wild && !alone {
            return Err(InvalidTopic::MisplacedWildcard);
        }
    }
    Ok(())
}

/// Whether a (valid) topic name matches a (valid) pattern. A wildcard in the first level matches no topic
/// that starts with `$` [MQTT-4.7.2-1].
pub fn matches(topic: &str, pattern: &str) -> bool {
    if topic.starts_with('$') && pattern.starts_with(['+', '#']) {
        return false;
    }
    let mut names = topic.split('/');
    for level in pattern.split('/') {
        if level == "#" {
            return true;
        }
        match names.next() {
            Some(name) if level == "+" || level == name => {}
            _ => return false,
        }
    }
    names.next().is_none()
}

/// Whether publishes to `topic` are readings, by the filters of `mqtt.forward`.
pub fn is_forwarded(topic: &str, forward: &[String]) -> bool {
    !topic.starts_with('$') && forward.iter().any(|pattern| matches(topic, pattern))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_in_any_language_are_names() {
        for name in ["a", "/", "énergie/compteur", "电表/1", "🔋", "a//b", " "] {
            assert_eq!(check_name(name), Ok(()), "{name}");
        }
        assert_eq!(check_name(""), Err(InvalidTopic::Empty));
        assert_eq!(check_name("a\0"), Err(InvalidTopic::Nul));
        assert_eq!(check_name("a/+"), Err(InvalidTopic::WildcardInName));
        assert_eq!(check_name("a#"), Err(InvalidTopic::WildcardInName));
    }

    #[test]
    fn filters_are_checked_level_by_level() {
        for good in [
            "#",
            "+",
            "a/#",
            "+/+/#",
            "/",
            "a/+/b",
            "$SYS/#",
            "电/+",
            "$share/g/#",
        ] {
            assert!(parse_filter(good).is_ok(), "{good}");
        }
        for bad in [
            "",
            "a#",
            "#/a",
            "a/#/b",
            "+a",
            "a+/b",
            "a/b\0",
            "$share/",
            "$share/g",
            "$share//a",
            "$share/g/",
            "$share/g+/a",
            "$share/g/a#",
        ] {
            assert!(parse_filter(bad).is_err(), "{bad}");
        }
        let shared = parse_filter("$share/dash/a/+").unwrap();
        assert_eq!((shared.share, shared.pattern), (Some("dash"), "a/+"));
    }

    #[test]
    fn matching_is_that_of_the_standard() {
        for (topic, pattern, expected) in [
            ("sport/tennis", "sport/tennis/#", true),
            ("sport", "sport/#", true),
            ("sport/tennis", "sport/+", true),
            ("sport", "sport/+", false),
            ("sport/", "sport/+", true),
            ("/finance", "+/+", true),
            ("/finance", "/+", true),
            ("/finance", "+", false),
            ("$SYS/a", "#", false),
            ("$SYS/a", "+/a", false),
            ("$SYS/a", "$SYS/#", true),
            ("énergie/1", "+/1", true),
            ("énergie", "#", true),
            ("a/b", "a", false),
            ("a", "a/b", false),
        ] {
            assert_eq!(matches(topic, pattern), expected, "{topic} {pattern}");
        }
    }

    #[test]
    fn dollar_topics_are_never_readings() {
        let all = vec!["#".to_owned(), "$SYS/#".to_owned()];
        assert!(is_forwarded("a", &all));
        assert!(!is_forwarded("$SYS/a", &all));
        assert!(!is_forwarded("a", &["b/#".to_owned()]));
    }
}
