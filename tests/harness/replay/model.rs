//! A file system with a page cache, and what of it is on stable storage.
//!
//! The rules: what was written to a file before a sync of that file began is on stable storage when the sync has
//! said so. Everything later may be there or not, page by page, in any order; a page on its way may be torn between
//! sectors; the size of a file is a thing of its own. Names are made and removed in their directory: by the strict
//! reading each is there or not until that directory was synced, whatever was synced in the file; by the other
//! ([`Names::Journal`], ext4, XFS) they reach the disk in order, and a sync of a file brings its own names along.
//! After a sync that failed, pages may be clean and yet not on the disk: a later sync does not write them.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use rand::Rng;
use rand::rngs::StdRng;

use super::log::{Kind, Log, Record};

/// What the page cache keeps together, in bytes.
pub const PAGE: usize = 4096;

/// Of a page that is written again and again without a sync, so many states are remembered.
const VERSIONS_MAX: usize = 48;

/// A page's content.
pub type Page = Arc<[u8; PAGE]>;

/// A file or directory, by its number.
pub type Id = usize;

/// How names become durable.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Names {
    /// Only by a sync of their directory; in any order.
    Strict,
    /// In order, as a journal does; a sync of the file or of the directory brings all earlier ones along.
    Journal,
}

/// A file.
#[derive(Debug, Clone, Default)]
pub struct File {
    /// As programs see it.
    pub now: Vec<u8>,
    /// As it is on the disk for certain: pages that were ever synced.
    pub disk: BTreeMap<usize, Page>,
    /// Its size on the disk for certain.
    pub disk_size: usize,
    /// What may be on the disk instead: the states of a page since its last sync, each with the operation that made it.
    pub dirty: BTreeMap<usize, Vec<(usize, Page)>>,
    /// The sizes since the last sync.
    pub sizes: Vec<(usize, usize)>,
}

/// A file or directory.
#[derive(Debug, Clone)]
pub enum Node {
    /// A file.
    File(Box<File>),
    /// A directory: names as programs see them, and on the disk for certain.
    Directory {
        /// Now.
        now: BTreeMap<String, Id>,
        /// On the disk.
        disk: BTreeMap<String, Id>,
    },
}

/// A change of names that happens as a whole.
#[derive(Debug, Clone)]
pub struct NameChange {
    /// The operation.
    pub at: usize,
    /// Directory, name, and what it is from then on.
    pub sets: Vec<(Id, String, Option<Id>)>,
}

/// All of it.
#[derive(Debug, Clone)]
pub struct Model {
    /// Files and directories; 0 is the root.
    pub nodes: Vec<Node>,
    /// Changes of names that are not on stable storage for certain, in order.
    pub names_pending: Vec<NameChange>,
    names: Names,
    handles: HashMap<(u32, u64), Id>,
    syncs: HashMap<(u32, u64), usize>,
    random: StdRng,
}

impl Model {
    /// An empty root, which is on the disk. `random` decides what a failed sync leaves behind.
    pub fn new(names: Names, random: StdRng) -> Self {
        Self {
            nodes: vec![Node::Directory {
                now: BTreeMap::new(),
                disk: BTreeMap::new(),
            }],
            names_pending: Vec::new(),
            names,
            handles: HashMap::new(),
            syncs: HashMap::new(),
            random,
        }
    }

    /// Puts what is below `directory` into the empty model, all of it on stable storage.
    pub fn load(&mut self, directory: &std::path::Path) -> std::io::Result<()> {
        self.load_into(0, directory)
    }

    fn load_into(&mut self, parent: Id, directory: &std::path::Path) -> std::io::Result<()> {
        for entry in std::fs::read_dir(directory)? {
            let entry = entry?;
            let id = self.nodes.len();
            if entry.file_type()?.is_dir() {
                self.nodes.push(Node::Directory {
                    now: BTreeMap::new(),
                    disk: BTreeMap::new(),
                });
                self.load_into(id, &entry.path())?;
            } else {
                self.nodes
                    .push(Node::File(Box::new(File::durable(std::fs::read(
                        entry.path(),
                    )?))));
            }
            let name = entry.file_name().to_string_lossy().into_owned();
            if let Node::Directory { now, disk } = &mut self.nodes[parent] {
                now.insert(name.clone(), id);
                disk.insert(name, id);
            }
        }
        Ok(())
    }

    /// Whether what programs see is what is below `path`, byte for byte.
    ///
    /// # Errors
    /// Where it differs: something was done past the recorder.
    pub fn is_at(&self, path: &std::path::Path) -> Result<(), String> {
        self.node_is_at(0, path)
    }

    fn node_is_at(&self, id: Id, path: &std::path::Path) -> Result<(), String> {
        let differs = |how: &str| Err(format!("{}: {how}; not all was recorded", path.display()));
        match &self.nodes[id] {
            Node::File(file) => match std::fs::read(path) {
                Ok(bytes) if bytes == file.now => Ok(()),
                Ok(_) => differs("another content"),
                Err(error) => differs(&error.to_string()),
            },
            Node::Directory { now, .. } => {
                let there = std::fs::read_dir(path).map(Iterator::count);
                if there.ok() != Some(now.len()) {
                    return differs("other names");
                }
                let mut names = now.iter();
                names.try_for_each(|(name, child)| self.node_is_at(*child, &path.join(name)))
            }
        }
    }

    /// Does all of `log`, and what [`Model::is_at`] says of it then.
    ///
    /// # Errors
    /// As there, and as [`Model::apply`].
    pub fn explains(log: &Log, path: &std::path::Path) -> Result<(), String> {
        let mut model = Self::new(Names::Strict, rand::SeedableRng::seed_from_u64(0));
        for at in 0..log.records.len() {
            model.apply(log, at)?;
        }
        model.is_at(path)
    }

    /// Does what operation `at` did.
    ///
    /// # Errors
    /// What it cannot have done: the recording is not complete.
    pub fn apply(&mut self, log: &Log, at: usize) -> Result<(), String> {
        let record = &log.records[at];
        if record.head.errno != 0 && record.kind != Kind::SyncEnd {
            return Ok(());
        }
        let (a, b) = (record.head.a, record.head.b);
        let missing = || format!("operation {at}, {record:?}: not there");
        match record.kind {
            Kind::Open => self.open(record, at).ok_or_else(missing)?,
            Kind::Write => {
                let file = self.file_of(record).ok_or_else(missing)?;
                file.write(at, usize::try_from(a).unwrap(), log.data(record));
            }
            Kind::Truncate => {
                let file = self.file_of(record).ok_or_else(missing)?;
                file.resize(at, usize::try_from(a).unwrap());
            }
            Kind::Allocate => {
                let file = self.file_of(record).ok_or_else(missing)?;
                let end = usize::try_from(a + b).unwrap();
                if end > file.now.len() {
                    file.resize(at, end);
                }
            }
            Kind::Rename => self.rename(record, at).ok_or_else(missing)?,
            Kind::Unlink | Kind::Rmdir => {
                let (parent, name) = self.place(&record.path).ok_or_else(missing)?;
                self.change(at, vec![(parent, name, None)]);
            }
            Kind::Mkdir => {
                let (parent, name) = self.place(&record.path).ok_or_else(missing)?;
                self.nodes.push(Node::Directory {
                    now: BTreeMap::new(),
                    disk: BTreeMap::new(),
                });
                let id = self.nodes.len() - 1;
                self.change(at, vec![(parent, name, Some(id))]);
            }
            Kind::Link => {
                let id = self.find(&record.path).ok_or_else(missing)?;
                let (parent, name) = self.place(&record.path_2).ok_or_else(missing)?;
                self.change(at, vec![(parent, name, Some(id))]);
            }
            Kind::SyncBegin => {
                self.syncs.insert((record.head.pid, a), at);
            }
            Kind::SyncEnd => self.synced(record).ok_or_else(missing)?,
            Kind::Unsupported => return Err(format!("not modelled: {}", record.path)),
        }
        Ok(())
    }

    fn file_of(&mut self, record: &Record) -> Option<&mut File> {
        let id = *self.handles.get(&(record.head.pid, record.head.handle))?;
        match self.nodes.get_mut(id)? {
            Node::File(file) => Some(file),
            Node::Directory { .. } => None,
        }
    }

    /// The file or directory of that path, as programs see it.
    pub fn find(&self, path: &str) -> Option<Id> {
        let mut at = 0;
        for name in path.split('/').filter(|name| !name.is_empty()) {
            match self.nodes.get(at)? {
                Node::Directory { now, .. } => at = *now.get(name)?,
                Node::File(_) => return None,
            }
        }
        Some(at)
    }

    fn place(&self, path: &str) -> Option<(Id, String)> {
        let (parent, name) = path.rsplit_once('/').unwrap_or(("", path));
        Some((self.find(parent)?, name.to_owned()))
    }

    fn open(&mut self, record: &Record, at: usize) -> Option<()> {
        let flags = i32::try_from(record.head.a).ok()?;
        let id = if let Some(id) = self.find(&record.path) {
            if flags & libc::O_TRUNC != 0
                && let Some(Node::File(file)) = self.nodes.get_mut(id)
                && !file.now.is_empty()
            {
                file.resize(at, 0);
            }
            id
        } else {
            let (parent, name) = self.place(&record.path)?;
            if flags & libc::O_CREAT == 0 {
                return None;
            }
            self.nodes.push(Node::File(Box::default()));
            let id = self.nodes.len() - 1;
            self.change(at, vec![(parent, name, Some(id))]);
            id
        };
        self.handles
            .insert((record.head.pid, record.head.handle), id);
        Some(())
    }

    fn rename(&mut self, record: &Record, at: usize) -> Option<()> {
        let id = self.find(&record.path)?;
        let (from, old) = self.place(&record.path)?;
        let (to, new) = self.place(&record.path_2)?;
        self.change(at, vec![(from, old, None), (to, new, Some(id))]);
        Some(())
    }

    fn change(&mut self, at: usize, sets: Vec<(Id, String, Option<Id>)>) {
        for (directory, name, id) in &sets {
            if let Some(Node::Directory { now, .. }) = self.nodes.get_mut(*directory) {
                set(now, name, *id);
            }
        }
        self.names_pending.push(NameChange { at, sets });
    }

    fn synced(&mut self, record: &Record) -> Option<()> {
        let id = *self.handles.get(&(record.head.pid, record.head.handle))?;
        let began = self.syncs.remove(&(record.head.pid, record.head.a))?;
        let failed = record.head.errno != 0;
        let random = &mut self.random;
        match self.nodes.get_mut(id)? {
            Node::File(file) if failed => file.sync_failed(began, random),
            Node::File(file) => file.sync(began),
            Node::Directory { .. } => {}
        }
        if !failed {
            self.names_synced(id, began);
        }
        Some(())
    }

    /// Names that a sync of `id`, begun at `began`, put on stable storage.
    fn names_synced(&mut self, id: Id, began: usize) {
        let directory = matches!(self.nodes.get(id), Some(Node::Directory { .. }));
        let touches = |change: &NameChange| {
            change.at < began
                && change.sets.iter().any(|(parent, _, child)| {
                    *parent == id || (*child == Some(id) && self.names == Names::Journal)
                })
        };
        let durable: Vec<NameChange> = match self.names {
            Names::Strict if directory => {
                self.names_pending.extract_if(.., |c| touches(c)).collect()
            }
            Names::Strict => Vec::new(),
            Names::Journal => {
                let last = self.names_pending.iter().rposition(touches);
                let end = last.map_or(0, |last| last + 1);
                self.names_pending.drain(..end).collect()
            }
        };
        for change in durable {
            for (parent, name, child) in change.sets {
                if let Some(Node::Directory { disk, .. }) = self.nodes.get_mut(parent) {
                    set(disk, &name, child);
                }
            }
        }
    }
}

/// A name is something from now on, or nothing.
pub fn set(names: &mut BTreeMap<String, Id>, name: &str, id: Option<Id>) {
    match id {
        Some(id) => names.insert(name.to_owned(), id),
        None => names.remove(name),
    };
}

impl File {
    fn durable(bytes: Vec<u8>) -> Self {
        let mut file = Self {
            disk_size: bytes.len(),
            now: bytes,
            ..Self::default()
        };
        for number in 0..file.now.len().div_ceil(PAGE) {
            file.disk.insert(number, file.page(number));
        }
        file
    }

    /// A page as programs see it, zeros behind the end.
    fn page(&self, number: usize) -> Page {
        let mut page = [0; PAGE];
        let bytes = self.now.get(number * PAGE..).unwrap_or_default();
        let bytes = &bytes[..bytes.len().min(PAGE)];
        page[..bytes.len()].copy_from_slice(bytes);
        Arc::new(page)
    }

    fn touched(&mut self, at: usize, number: usize) {
        let page = self.page(number);
        let versions = self.dirty.entry(number).or_default();
        versions.push((at, page));
        if versions.len() > VERSIONS_MAX {
            // Any of them may be what is on the disk; with fewer there is less to choose from.
            let mut odd = false;
            versions.retain(|_| {
                odd = !odd;
                odd
            });
        }
    }

    fn write(&mut self, at: usize, offset: usize, data: &[u8]) {
        let end = offset + data.len();
        if end > self.now.len() {
            self.now.resize(end, 0);
            self.sizes.push((at, end));
        }
        self.now[offset..end].copy_from_slice(data);
        for number in offset / PAGE..end.div_ceil(PAGE) {
            self.touched(at, number);
        }
    }

    fn resize(&mut self, at: usize, size: usize) {
        let before = self.now.len();
        self.now.resize(size, 0);
        self.sizes.push((at, size));
        // Growing makes a hole; what was cut off reads as zeros when the file grows again.
        if size < before {
            for number in size / PAGE..before.div_ceil(PAGE) {
                self.touched(at, number);
            }
        }
    }

    fn sync(&mut self, began: usize) {
        let disk = &mut self.disk;
        self.dirty.retain(|number, versions| {
            let done = versions.partition_point(|(at, _)| *at < began);
            if let Some((_, page)) = versions.drain(..done).next_back() {
                disk.insert(*number, page);
            }
            !versions.is_empty()
        });
        let done = self.sizes.partition_point(|(at, _)| *at < began);
        if let Some((_, size)) = self.sizes.drain(..done).next_back() {
            self.disk_size = size;
        }
    }

    /// The kernel may take pages for clean that it could not write: no later sync writes them.
    fn sync_failed(&mut self, began: usize, random: &mut StdRng) {
        self.dirty.retain(|_, versions| {
            if random.random() {
                versions.retain(|(at, _)| *at >= began);
            }
            !versions.is_empty()
        });
    }
}
