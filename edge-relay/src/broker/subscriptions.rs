//! Who subscribed to what: a tree by topic level.
//!
//! Invariant: a session has at most one entry a (group, pattern), and a node without entries and
//! children is removed.

use std::cell::Cell;
use std::collections::HashMap;
use std::sync::Arc;

use super::topic::Filter;

/// The number a session goes by in this process.
pub type SessionKey = u64;

/// What one subscription asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Options {
    /// The highest `QoS` it is sent with.
    pub qos: u8,
    /// Not the subscriber's own publishes.
    pub no_local: bool,
    /// The retain flag stays as it was published.
    pub retain_as_published: bool,
    /// The subscription identifier.
    pub id: Option<u32>,
}

#[derive(Debug, Default)]
struct Node {
    children: HashMap<Box<str>, Node>,
    plain: Vec<(SessionKey, Options)>,
    shared: Vec<Group>,
}

#[derive(Debug)]
struct Group {
    name: Box<str>,
    /// As it is subscribed to, `$share/NAME/FILTER`.
    filter: Arc<str>,
    members: Vec<(SessionKey, Options)>,
    turn: Cell<usize>,
}

/// All subscriptions.
#[derive(Debug, Default)]
pub struct Subscriptions {
    root: Node,
    count: usize,
}

/// What a publish reaches.
#[derive(Debug, Default)]
pub struct Matches {
    /// One entry a matching subscription.
    pub plain: Vec<(SessionKey, Options)>,
    /// One entry a matching group: the member whose turn it is, and the group's `$share/NAME/FILTER`.
    pub shared: Vec<(SessionKey, Options, Arc<str>)>,
}

impl Subscriptions {
    /// How many there are.
    pub fn len(&self) -> usize {
        self.count
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Adds or replaces; true where it is new.
    pub fn insert(&mut self, filter: Filter<'_>, session: SessionKey, options: Options) -> bool {
        let mut node = &mut self.root;
        for level in filter.pattern.split('/') {
            node = node.children.entry(level.into()).or_default();
        }
        let entries = match filter.share {
            None => &mut node.plain,
            Some(name) => node.group(name, filter.pattern),
        };
        if let Some(entry) = entries.iter_mut().find(|(key, _)| *key == session) {
            entry.1 = options;
            return false;
        }
        entries.push((session, options));
        self.count += 1;
        true
    }

    /// Takes it out; true where it was there.
    pub fn remove(&mut self, filter: Filter<'_>, session: SessionKey) -> bool {
        let mut levels = filter.pattern.split('/');
        let removed = self.root.remove(&mut levels, filter.share, session);
        if removed {
            self.count -= 1;
        }
        removed
    }

    /// Finds what `topic` reaches. Of a group, the next member in turn for which `ready`, else the next.
    pub fn matches(&self, topic: &str, ready: impl Fn(SessionKey) -> bool) -> Matches {
        let mut found = Matches::default();
        if self.count > 0 {
            let levels: Vec<&str> = topic.split('/').collect();
            self.root
                .collect(&levels, topic.starts_with('$'), &ready, &mut found);
        }
        found
    }
}

impl Subscriptions {
    /// The member of a shared subscription whose turn it is; `ready` ones first.
    pub fn member(
        &self,
        filter: Filter<'_>,
        ready: impl Fn(SessionKey) -> bool,
    ) -> Option<(SessionKey, Options)> {
        let mut node = &self.root;
        for level in filter.pattern.split('/') {
            node = node.children.get(level)?;
        }
        let group = node
            .shared
            .iter()
            .find(|g| Some(&*g.name) == filter.share)?;
        group.next(&ready)
    }
}

impl Node {
    fn group(&mut self, name: &str, pattern: &str) -> &mut Vec<(SessionKey, Options)> {
        let at = self.shared.iter().position(|g| &*g.name == name);
        let at = at.unwrap_or_else(|| {
            self.shared.push(Group {
                name: name.into(),
                filter: format!("$share/{name}/{pattern}").into(),
                members: Vec::new(),
                turn: Cell::new(0),
            });
            self.shared.len() - 1
        });
        #[allow(clippy::indexing_slicing)] // found, or pushed just now
        &mut self.shared[at].members
    }

    fn remove<'a>(
        &mut self,
        levels: &mut impl Iterator<Item = &'a str>,
        share: Option<&str>,
        session: SessionKey,
    ) -> bool {
        if let Some(level) = levels.next() {
            let Some(child) = self.children.get_mut(level) else {
                return false;
            };
            let removed = child.remove(levels, share, session);
            if child.children.is_empty() && child.plain.is_empty() && child.shared.is_empty() {
                self.children.remove(level);
            }
            return removed;
        }
        let entries = match share {
            None => &mut self.plain,
            Some(name) => match self.shared.iter_mut().find(|g| &*g.name == name) {
                Some(group) => &mut group.members,
                None => return false,
            },
        };
        let before = entries.len();
        entries.retain(|(key, _)| *key != session);
        let removed = entries.len() < before;
        self.shared.retain(|g| !g.members.is_empty());
        removed
    }

    fn collect(
        &self,
        levels: &[&str],
        dollar: bool,
        ready: &impl Fn(SessionKey) -> bool,
        found: &mut Matches,
    ) {
        if !dollar && let Some(rest) = self.children.get("#") {
            rest.take(ready, found);
        }
        let Some((level, rest)) = levels.split_first() else {
            self.take(ready, found);
            return;
        };
        if !dollar && let Some(any) = self.children.get("+") {
            any.collect(rest, false, ready, found);
        }
        if let Some(child) = self.children.get(*level) {
            child.collect(rest, false, ready, found);
        }
    }

    fn take(&self, ready: &impl Fn(SessionKey) -> bool, found: &mut Matches) {
        found.plain.extend_from_slice(&self.plain);
        found.shared.extend(self.shared.iter().filter_map(|g| {
            let (key, options) = g.next(ready)?;
            Some((key, options, g.filter.clone()))
        }));
    }
}

impl Group {
    fn next(&self, ready: &impl Fn(SessionKey) -> bool) -> Option<(SessionKey, Options)> {
        let count = self.members.len();
        let start = self.turn.get();
        self.turn.set(start.wrapping_add(1));
        let in_turn =
            || (0..count).filter_map(|i| self.members.get((start.wrapping_add(i)) % count));
        in_turn()
            .find(|(key, _)| ready(*key))
            .or_else(|| in_turn().next())
            .copied()
    }
}

#[cfg(test)]
mod tests {
    use super::super::topic::{self, parse_filter};
    use super::*;
    use proptest::prelude::*;

    const QOS_1: Options = Options {
        qos: 1,
        no_local: false,
        retain_as_published: false,
        id: None,
    };

    #[test]
    fn a_group_takes_turns_and_prefers_the_ready() {
        let mut all = Subscriptions::default();
        for session in 1..=3 {
            all.insert(parse_filter("$share/g/a/#").unwrap(), session, QOS_1);
        }
        let turn = |ready: &dyn Fn(u64) -> bool| all.matches("a/b", ready).shared[0].0;
        assert_eq!(
            [turn(&|_| true), turn(&|_| true), turn(&|_| true)],
            [1, 2, 3]
        );
        for _ in 0..4 {
            assert_eq!(turn(&|key| key == 2), 2);
        }
        assert_eq!(all.matches("a/b", |_| false).shared.len(), 1);
    }

    #[test]
    fn what_is_removed_leaves_nothing_behind() {
        let mut all = Subscriptions::default();
        let filters = ["a/b/#", "$share/g/a/+", "+", "#"];
        for filter in filters {
            assert!(all.insert(parse_filter(filter).unwrap(), 7, QOS_1));
            assert!(!all.insert(parse_filter(filter).unwrap(), 7, QOS_1));
        }
        assert_eq!(all.len(), 4);
        for filter in filters {
            assert!(all.remove(parse_filter(filter).unwrap(), 7));
            assert!(!all.remove(parse_filter(filter).unwrap(), 7));
        }
        assert!(all.is_empty() && all.root.children.is_empty());
    }

    proptest! {
        #[test]
        fn the_tree_agrees_with_matching_one_by_one(
            topic in "[$ab]?[ab/é]{1,6}",
            patterns in proptest::collection::vec("([ab+é]/){0,3}[ab+#é]", 1..8),
        ) {
            let mut all = Subscriptions::default();
            let mut expected = Vec::new();
            for (key, pattern) in (1u64..).zip(&patterns) {
                all.insert(parse_filter(pattern).unwrap(), key, QOS_1);
                if topic::matches(&topic, pattern) {
                    expected.push(key);
                }
            }
            let mut found: Vec<u64> =
                all.matches(&topic, |_| true).plain.iter().map(|(key, _)| *key).collect();
            found.sort_unstable();
            prop_assert_eq!(found, expected);
        }
    }
}
