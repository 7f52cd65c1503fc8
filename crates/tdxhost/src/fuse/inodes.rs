//! Numbers for paths. A path keeps its number for the life of the mount, so that a file that
//! vanishes and comes back is the same file to programs that compare numbers.

use std::collections::HashMap;
use std::sync::Arc;

use fuser::INodeNo;
use parking_lot::Mutex;

/// The paths that anybody has looked up so far.
#[derive(Debug)]
pub(super) struct Inodes(Mutex<Table>);

#[derive(Debug)]
struct Table {
    /// Index 0 is the root, number 1.
    paths: Vec<Arc<str>>,
    numbers: HashMap<Arc<str>, INodeNo>,
}

impl Inodes {
    pub(super) fn new() -> Self {
        let root: Arc<str> = "".into();
        Self(Mutex::new(Table {
            paths: vec![Arc::clone(&root)],
            numbers: HashMap::from([(root, INodeNo::ROOT)]),
        }))
    }

    /// The path of a number that was given out.
    pub(super) fn path(&self, number: INodeNo) -> Option<Arc<str>> {
        let index = usize::try_from(number.0).ok()?.checked_sub(1)?;
        self.0.lock().paths.get(index).cloned()
    }

    /// The number of a path; a new one at the first call.
    pub(super) fn number(&self, path: &str) -> INodeNo {
        let mut table = self.0.lock();
        if let Some(number) = table.numbers.get(path) {
            return *number;
        }
        let path: Arc<str> = path.into();
        table.paths.push(Arc::clone(&path));
        let number = INodeNo(table.paths.len() as u64);
        table.numbers.insert(path, number);
        number
    }
}

/// Path of `name` in the directory `parent`.
pub(super) fn join(parent: &str, name: &str) -> String {
    if parent.is_empty() { name.to_owned() } else { format!("{parent}/{name}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_keeps_its_number_and_a_number_its_path() {
        let inodes = Inodes::new();
        assert_eq!(inodes.number(""), INodeNo::ROOT);
        let devices = inodes.number("devices");
        let bus = inodes.number("bus");
        assert_ne!(devices, bus);
        assert_eq!(inodes.number("devices"), devices);
        assert_eq!(inodes.path(devices).as_deref(), Some("devices"));
    }

    #[test]
    fn numbers_that_were_never_given_out_have_no_path() {
        let inodes = Inodes::new();
        for number in [0, 2, u64::MAX] {
            assert_eq!(inodes.path(INodeNo(number)), None);
        }
    }
}
