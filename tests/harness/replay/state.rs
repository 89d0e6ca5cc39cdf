//! From what a model knows to one state that the disk may be in, in a directory.

use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::io;
use std::path::Path;

use rand::Rng;
use rand::rngs::StdRng;

use super::model::{File, Id, Model, Names, Node, PAGE, Page, set};

/// What the disk writes at once, in bytes.
const SECTOR: usize = 512;

/// What becomes of that which is not on stable storage for certain.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Luck {
    /// All of it is lost.
    Nothing,
    /// All of it is there, as after a kill.
    Everything,
    /// Each page, size and name for itself, with this chance to be there.
    Each(f64),
    /// What was done before this operation is there, in order.
    Until(usize),
    /// Each file is there or lost as a whole.
    Files,
    /// All but one page is there.
    OneHole,
    /// All but one page is lost.
    OneLeft,
}

impl Luck {
    /// Draws one for a cut at operation `cut`.
    pub fn draw(cut: usize, random: &mut StdRng) -> Self {
        match random.random_range(0..12) {
            0 => Self::Nothing,
            1 => Self::Everything,
            2 => Self::Each(0.1),
            3 | 4 => Self::Each(0.5),
            5 => Self::Each(0.9),
            6 | 7 => Self::Until(cut.saturating_sub(random.random_range(0..200))),
            8 | 9 => Self::Files,
            10 => Self::OneHole,
            _ => Self::OneLeft,
        }
    }
}

impl fmt::Display for Luck {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Each(chance) => write!(f, "each kept with {chance}"),
            Self::Until(at) => write!(f, "in order until operation {at}"),
            Self::Nothing => write!(f, "nothing unsynced kept"),
            Self::Everything => write!(f, "everything kept"),
            Self::Files => write!(f, "whole files kept or lost"),
            Self::OneHole => write!(f, "one page lost"),
            Self::OneLeft => write!(f, "one page kept"),
        }
    }
}

/// Chooses a state of the disk and writes it below `target`, which is made.
///
/// # Errors
/// What the system says while it is written.
pub fn materialise(
    model: &Model,
    names: Names,
    luck: Luck,
    random: &mut StdRng,
    target: &Path,
) -> io::Result<()> {
    let mut choice = Choice {
        luck,
        special: special_page(model, random),
        random,
    };
    let directories = choice.names(model, names);
    fs::create_dir_all(target)?;
    choice.directory(model, &directories, 0, target, 0)
}

/// Files and directories by name, of one directory.
type Entries = BTreeMap<String, Id>;

struct Choice<'a> {
    luck: Luck,
    /// The page that the two lucks with one page mean.
    special: Option<(Id, usize)>,
    random: &'a mut StdRng,
}

fn special_page(model: &Model, random: &mut StdRng) -> Option<(Id, usize)> {
    let mut all = Vec::new();
    for (id, node) in model.nodes.iter().enumerate() {
        if let Node::File(file) = node {
            all.extend(file.dirty.keys().map(|page| (id, *page)));
        }
    }
    (!all.is_empty()).then(|| all[random.random_range(0..all.len())])
}

impl Choice<'_> {
    /// The names of each directory.
    fn names(&mut self, model: &Model, names: Names) -> Vec<Entries> {
        let disk = |node: &Node| match node {
            Node::Directory { disk, .. } => disk.clone(),
            Node::File(_) => Entries::new(),
        };
        let mut all: Vec<Entries> = model.nodes.iter().map(disk).collect();
        let pending = &model.names_pending;
        let in_order = match (names, self.luck) {
            (_, Luck::Until(until)) => Some(pending.partition_point(|c| c.at < until)),
            (_, Luck::Nothing) => Some(0),
            (_, Luck::Everything) => Some(pending.len()),
            (Names::Journal, _) => Some(self.random.random_range(0..=pending.len())),
            (Names::Strict, _) => None,
        };
        let chance = match self.luck {
            Luck::Each(chance) => chance,
            _ => 0.5,
        };
        for (number, change) in pending.iter().enumerate() {
            let kept = in_order.map_or_else(|| self.random.random_bool(chance), |end| number < end);
            for (parent, name, id) in change.sets.iter().filter(|_| kept) {
                set(&mut all[*parent], name, *id);
            }
        }
        all
    }

    fn directory(
        &mut self,
        model: &Model,
        directories: &[Entries],
        id: Id,
        target: &Path,
        depth: usize,
    ) -> io::Result<()> {
        assert!(depth < 32, "a directory within itself");
        for (name, child) in &directories[id] {
            let path = target.join(name);
            match &model.nodes[*child] {
                Node::Directory { .. } => {
                    fs::create_dir(&path)?;
                    self.directory(model, directories, *child, &path, depth + 1)?;
                }
                Node::File(file) => fs::write(&path, self.content(*child, file))?,
            }
        }
        Ok(())
    }

    fn content(&mut self, id: Id, file: &File) -> Vec<u8> {
        let whole = self.random.random_bool(0.5);
        let size = self.size(file, whole);
        let mut bytes = vec![0; size];
        let mut place = |number: usize, page: &[u8; PAGE]| {
            let Some(to) = bytes.get_mut(number * PAGE..) else {
                return;
            };
            let length = to.len().min(PAGE);
            to[..length].copy_from_slice(&page[..length]);
        };
        for (number, page) in &file.disk {
            if !file.dirty.contains_key(number) {
                place(*number, page);
            }
        }
        for (number, versions) in &file.dirty {
            let before = file.disk.get(number);
            let special = self.special == Some((id, *number));
            place(*number, &self.page(before, versions, whole, special));
        }
        bytes
    }

    fn size(&mut self, file: &File, whole: bool) -> usize {
        let (first, last) = (
            file.disk_size,
            file.sizes.last().map_or(file.disk_size, |s| s.1),
        );
        match self.luck {
            Luck::Nothing | Luck::OneLeft => first,
            Luck::Everything | Luck::OneHole => last,
            Luck::Files => {
                if whole {
                    last
                } else {
                    first
                }
            }
            Luck::Until(until) => {
                let before = file.sizes.partition_point(|(at, _)| *at < until);
                before.checked_sub(1).map_or(first, |i| file.sizes[i].1)
            }
            Luck::Each(chance) => {
                if self.random.random_bool(chance) {
                    last
                } else {
                    let pick = self.random.random_range(0..=file.sizes.len());
                    pick.checked_sub(1).map_or(first, |i| file.sizes[i].1)
                }
            }
        }
    }

    fn page(
        &mut self,
        before: Option<&Page>,
        versions: &[(usize, Page)],
        whole: bool,
        special: bool,
    ) -> Page {
        let zeros: Page = Page::new([0; PAGE]);
        let version = |number: usize| {
            let made = number.checked_sub(1).map(|i| &versions[i].1);
            made.or(before).unwrap_or(&zeros).clone()
        };
        let last = versions.len();
        let (number, may_tear) = match self.luck {
            Luck::Files => (if whole { last } else { 0 }, false),
            Luck::Until(until) => {
                let number = versions.partition_point(|(at, _)| *at < until);
                // The operation that was under way.
                (number, number < last)
            }
            Luck::OneHole if special => (self.random.random_range(0..last), true),
            Luck::Everything | Luck::OneHole => (last, false),
            Luck::OneLeft if special => (self.random.random_range(1..=last), true),
            Luck::Nothing | Luck::OneLeft => (0, false),
            Luck::Each(chance) => {
                let kept = self.random.random_bool(chance);
                (
                    if kept {
                        self.random.random_range(1..=last)
                    } else {
                        0
                    },
                    true,
                )
            }
        };
        if may_tear && self.random.random_bool(0.25) {
            let other = self.random.random_range(0..=last);
            return self.torn(&version(number), &version(other));
        }
        version(number)
    }

    /// Some sectors of one state, some of another.
    fn torn(&mut self, one: &Page, other: &Page) -> Page {
        let mut page = **one;
        for sector in 0..PAGE / SECTOR {
            if self.random.random() {
                let range = sector * SECTOR..(sector + 1) * SECTOR;
                page[range.clone()].copy_from_slice(&other[range]);
            }
        }
        Page::new(page)
    }
}
