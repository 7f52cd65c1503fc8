//! Cells and locks.

use shuttle::sync::Arc;
use shuttle::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use shuttle::thread;
use tdx_host::sync::{SeqCell, Spin, SpinOnce, with_lock};
use tdx_races::{explore, explore_all};

const LAST: u64 = 3;

/// A reader must see one value in all words, and never an older one than before.
fn publish_and_read<C: Send + Sync + 'static>(
    cell: C,
    publish: fn(&C, [u64; 3]),
    read: fn(&C) -> Option<[u64; 3]>,
) {
    let cell = Arc::new(cell);
    let writer = {
        let cell = Arc::clone(&cell);
        thread::spawn(move || (1..=LAST).for_each(|value| publish(&cell, [value; 3])))
    };
    let mut newest = 0;
    for _ in 0..3 {
        if let Some([first, second, third]) = read(&cell) {
            assert!(first == second && second == third, "torn: {first} {second} {third}");
            assert!(first >= newest, "stale: {first} after {newest}");
            newest = first;
        }
    }
    writer.join().unwrap();
    assert_eq!(read(&cell), Some([LAST; 3]));
}

#[test]
fn a_published_value_is_never_torn_nor_older_than_one_seen_before() {
    explore(12000, || {
        publish_and_read(SeqCell::<3>::new(), |cell, value| cell.publish(&value), SeqCell::read);
    });
}

#[test]
#[should_panic(expected = "torn")]
fn words_without_a_sequence_are_seen_to_tear() {
    explore(12000, || {
        let words: [AtomicU64; 3] = std::array::from_fn(|_| AtomicU64::new(0));
        publish_and_read(
            words,
            |words, value| {
                words.iter().zip(value).for_each(|(word, new)| word.store(new, Ordering::SeqCst));
            },
            |words| Some(std::array::from_fn(|place| words[place].load(Ordering::SeqCst))),
        );
    });
}

#[test]
fn two_writers_leave_the_value_of_one_of_them() {
    explore(12000, || {
        let cell = Arc::new(SeqCell::<2>::new());
        let writers = [1, 2].map(|value| {
            let cell = Arc::clone(&cell);
            thread::spawn(move || cell.publish(&[value; 2]))
        });
        for writer in writers {
            writer.join().unwrap();
        }
        let [first, second] = cell.read().unwrap();
        assert!(first == second && [1, 2].contains(&first), "torn: {first} {second}");
    });
}

#[test]
fn the_first_result_is_everybodys() {
    explore(12000, || {
        let (once, works) = (Arc::new(SpinOnce::<2>::new()), Arc::new(AtomicU32::new(0)));
        let threads = [1, 2, 3].map(|value| {
            let (once, works) = (Arc::clone(&once), Arc::clone(&works));
            thread::spawn(move || {
                once.get_or_init(|| {
                    works.fetch_add(1, Ordering::SeqCst);
                    [value; 2]
                })
            })
        });
        let [first, second, third] = threads.map(|thread| thread.join().unwrap());
        assert!(first == second && second == third && first[0] == first[1]);
        assert_eq!(works.load(Ordering::SeqCst), 1);
    });
}

fn one_at_a_time<K: tdx_host::sync::RawLock + Default + Send + Sync + 'static>() {
    let (lock, inside) = (Arc::new(K::default()), Arc::new(AtomicU32::new(0)));
    let threads = [(); 2].map(|()| {
        let (lock, inside) = (Arc::clone(&lock), Arc::clone(&inside));
        thread::spawn(move || {
            with_lock(&*lock, || {
                assert_eq!(inside.fetch_add(1, Ordering::SeqCst), 0, "two inside");
                inside.fetch_sub(1, Ordering::SeqCst);
            });
        })
    });
    for thread in threads {
        thread.join().unwrap();
    }
}

#[test]
fn a_spin_lock_lets_one_in_at_a_time() {
    explore(6000, one_at_a_time::<Spin>);
}

#[test]
#[should_panic(expected = "two inside")]
fn a_lock_that_lets_everybody_in_is_noticed() {
    explore_all(2000, one_at_a_time::<crate::NoLock>);
}
