//! Lists of pages: how they are found, who owns them, and what comes back.

use tdx_abi::PhysAddr;
use tdx_abi::connect::pages::{HpaArray, ReleaseOperand};
use tdx_host::HostError;
use tdx_host::page_list::{DonatedList, PageList, Returned, RootPage};
use tdx_host::traits::{MemoryFault, NodeId};

use crate::fake::{Access, Fake, Leaks};

type List<const RUNS: usize = 64> = PageList<Leaks, RUNS>;

const NODE: NodeId = NodeId(0);

/// Memory in pieces of single pages with one page between them.
fn scattered(pieces: u64) -> Fake {
    let fake = Fake::new(1);
    fake.state().free = (0..pieces).map(|i| ((1 << 24) + i * 8192, (1 << 24) + i * 8192 + 4096)).collect();
    fake
}

fn assert_all_back(fake: &Fake, free: u64) {
    assert_eq!((fake.free_bytes(), fake.leaked_pages()), (free, 0));
}

#[test]
fn pages_are_one_run_if_there_is_one_and_else_as_few_as_there_are() {
    for count in [1, 2, 512] {
        let fake = Fake::new(1);
        let free = fake.free_bytes();
        let list = List::<64>::alloc(&fake, count, NODE).unwrap();
        let pages: Vec<_> = list.addresses().map(PhysAddr::as_u64).collect();
        assert!(pages.windows(2).all(|pair| pair[1] == pair[0] + 4096), "{count} pages");
        assert_eq!((list.count(), pages.len()), (count, count));
        list.free(&fake);
        assert_all_back(&fake, free);

        let fake = scattered(512);
        let free = fake.free_bytes();
        let list = List::<512>::alloc(&fake, count, NODE).unwrap();
        let pages: Vec<_> = list.addresses().map(PhysAddr::as_u64).collect();
        assert!(pages.windows(2).all(|pair| pair[1] == pair[0] + 8192), "{count} pages");
        assert_eq!(pages.len(), count);
        list.free(&fake);
        assert_all_back(&fake, free);
    }
}

#[test]
fn memory_in_too_many_pieces_is_no_memory_and_nothing_is_kept() {
    for (pieces, count) in [(3, 4), (512, 65)] {
        let fake = scattered(pieces);
        let free = fake.free_bytes();
        let refused = List::<64>::alloc(&fake, count, NODE).map(|list| list.free(&fake));
        assert!(matches!(refused, Err(HostError::NoMemory { bytes: 4096 })), "{refused:?}");
        assert_all_back(&fake, free);
    }
    // A list that has pages keeps them.
    let fake = scattered(5);
    let mut list = List::<64>::alloc(&fake, 2, NODE).unwrap();
    let before: Vec<_> = list.addresses().collect();
    assert!(list.extend(&fake, 4, NODE).is_err());
    assert_eq!(list.addresses().collect::<Vec<_>>(), before);
    list.extend(&fake, 3, NODE).unwrap();
    assert_eq!(list.count(), 5);
    list.free(&fake);
    assert_all_back(&fake, 5 * 4096);
}

#[test]
fn what_is_written_over_the_borders_of_runs_is_read_again() {
    let fake = scattered(4);
    let list = List::<64>::alloc(&fake, 4, NODE).unwrap();
    let bytes: Vec<u8> = (0..10_000u32).map(|i| i.to_le_bytes()[0] ^ i.to_le_bytes()[1]).collect();
    list.write(&fake, 3000, &bytes).unwrap();
    let mut read = vec![0; bytes.len()];
    list.read(&fake, 3000, &mut read).unwrap();
    assert_eq!(read, bytes);
    let end = list.addresses().last().unwrap().checked_add(4096).unwrap();
    let outside = Err(MemoryFault::NotMemory(end));
    assert_eq!(list.write(&fake, 16_384 - 9, &bytes[..10]), outside);
    assert_eq!(list.read(&fake, 16_384 - 9, &mut read[..10]), outside);
    assert_eq!(list.read(&fake, 16_384 - 10, &mut read[..10]), Ok(()));
    list.free(&fake);
    assert_all_back(&fake, 4 * 4096);
}

#[test]
fn a_list_that_is_dropped_is_lost_whoever_owns_it() {
    let fake = scattered(9);
    drop(List::<64>::alloc(&fake, 2, NODE).unwrap());
    assert_eq!(fake.leaked_pages(), 2);
    drop(List::<64>::alloc(&fake, 3, NODE).unwrap().donate(&fake));
    assert_eq!(fake.leaked_pages(), 5);
    drop(List::<64>::alloc(&fake, 4, NODE).unwrap().donate(&fake).reclaim());
    assert_eq!(fake.leaked_pages(), 9);
    drop((List::<64>::new(), DonatedList::<Leaks>::new()));
    assert_eq!(fake.leaked_pages(), 9);
}

#[test]
fn a_list_can_be_given_in_parts_and_put_together() {
    let fake = scattered(3);
    // Two of three runs are longer than a page.
    fake.state().free = [(1 << 24, (1 << 24) + 4 * 4096), (2 << 24, (2 << 24) + 2 * 4096)].into();
    let mut list = List::<64>::alloc(&fake, 6, NODE).unwrap();
    let all: Vec<_> = list.addresses().collect();
    let mut whole = DonatedList::<Leaks, 8>::new();
    for count in [1, 0, 4, 9] {
        let part = list.split_first(count);
        assert!(whole.has_room_for(&part));
        whole.append(part.donate(&fake));
    }
    assert_eq!((whole.count(), list.count()), (6, 0));
    assert_eq!(whole.addresses().collect::<Vec<_>>(), all);
    let first = whole.split_first(2);
    assert_eq!(first.addresses().collect::<Vec<_>>(), all[..2]);
    for part in [first, whole] {
        part.never_taken().free(&fake);
    }
    assert_all_back(&fake, 6 * 4096);
}

#[test]
fn pages_that_the_module_kept_are_poisoned_and_counted() {
    // (pages, those that come back)
    for (count, back) in [(1, 1), (1, 0), (2, 2), (2, 1), (512, 512), (512, 300)] {
        let fake = scattered(600);
        let free = fake.free_bytes();
        let root = RootPage::alloc(&fake, NODE).unwrap();
        let list = List::<600>::alloc(&fake, count, NODE).unwrap();
        let pages: Vec<_> = list.addresses().collect();
        let donated = list.donate(&fake);
        let flushed = fake.state().flushed.clone();
        assert!(pages.iter().all(|&page| flushed.iter().any(|range| range.contains(page))), "{count}");
        let operand = root.release(&fake, &donated).unwrap();
        assert_eq!(operand == ReleaseOperand::SINGLE, count == 1);
        let rcx = match (back, count) {
            (0, _) => 1,
            (_, 1) => HpaArray::of(pages[0], 1).unwrap().raw(),
            _ => HpaArray::of(root.address(), back.max(2)).unwrap().raw(),
        };
        if count > 1 {
            root.fill(&fake, pages.iter().rev().take(back).map(|page| page.as_u64())).unwrap();
        }
        let taken = donated.take_back(|page| root.released(&fake, rcx).names(page));
        assert_eq!(taken.missing, count - back, "{back} of {count}");
        let owned = taken.pages.into_owned(&fake);
        assert_eq!(owned.count(), back);
        assert_eq!(fake.state().cleared.iter().map(|range| range.size() / 4096).sum::<u64>(), back as u64);
        owned.free(&fake);
        root.free(&fake);
        assert_eq!(fake.leaked_pages(), (count - back) as u64);
        assert_eq!(fake.free_bytes(), free - (count - back) as u64 * 4096);
    }
}

#[test]
fn a_result_that_describes_another_list_names_no_page() {
    let fake = Fake::new(1);
    let root = RootPage::alloc(&fake, NODE).unwrap();
    let list = List::<64>::alloc(&fake, 2, NODE).unwrap();
    root.hpa_array(&fake, &list).unwrap();
    let page = list.addresses().next().unwrap();
    let right = HpaArray::of(root.address(), 2).unwrap().raw();
    assert!(root.released(&fake, right).names(page));
    let elsewhere = HpaArray::of(PhysAddr::new(0x5000), 2).unwrap().raw();
    for rcx in [0, 1, u64::MAX, elsewhere] {
        assert!(!root.released(&fake, rcx).names(page), "{rcx:#x}");
    }
    // Nor does one that cannot be read.
    fake.state().poisoned = Some(Access::Read);
    assert!(!root.released(&fake, right).names(page));
    assert!(!Returned::<Fake>::Nothing.names(page));
    list.free(&fake);
    root.free(&fake);
}

#[test]
fn operands_are_written_into_the_root_page() {
    for count in [1, 2, 510, 512] {
        let fake = scattered(1200);
        let free = fake.free_bytes();
        let root = RootPage::alloc(&fake, NODE).unwrap();
        let list = List::<512>::alloc(&fake, count, NODE).unwrap();
        let pages: Vec<u64> = list.addresses().map(PhysAddr::as_u64).collect();
        let entries = || -> Vec<u64> {
            let state = fake.state();
            (0..512).map(|index| state.word(root.address().as_u64() + 8 * index)).collect()
        };
        let array = root.hpa_array(&fake, &list).unwrap();
        assert_eq!((array.count(), array.root().is_none()), (count, count == 1));
        if count > 1 {
            assert_eq!(entries()[..count], pages);
        }
        let info = root.hpa_list_info(&fake, &list).unwrap();
        assert_eq!(usize::from(info.last_entry()) + 1, count);
        assert_eq!(entries()[..count], pages);
        assert!(entries()[count..].iter().all(|rest| *rest == 0));
        let block = |start: u64| crate::fake::range(start, start + 8192);
        let list_of_unit = root.iommu_mt(&fake, [block(0x10_0000), block(0x20_0000)], &list);
        if count <= 510 {
            assert_eq!(list_of_unit, Ok(root.address()));
            assert_eq!(entries()[..2], [0x10_0002, 0x20_0002]);
            assert_eq!(entries()[2..2 + count], pages);
        } else {
            assert_eq!(list_of_unit.unwrap_err().name(), "page-list-refused");
        }
        fake.state().poisoned = Some(Access::Write);
        assert_eq!(root.hpa_list_info(&fake, &list).unwrap_err().name(), "memory-access-failed");
        fake.state().poisoned = None;
        list.free(&fake);
        root.free(&fake);
        assert_all_back(&fake, free);
    }
}
