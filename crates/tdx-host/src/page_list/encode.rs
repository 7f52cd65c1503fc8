//! Operands that name lists of pages. Pure: an operand and what the root page behind it has to hold.

use tdx_abi::connect::pages::{HpaArray, IOMMU_MT_MAX_PAGES, IommuBlock, ReleaseOperand};
use tdx_abi::hpa_list::{HPA_LIST_MAX, HpaListError, HpaListInfo};
use tdx_abi::{PhysAddr, PhysRange};

/// An operand and the entries of its root page; entries that are not told are 0.
#[derive(Clone, Debug)]
pub struct Encoded<T, I> {
    /// What goes into the register.
    pub operand: T,
    /// The root page's content; empty if the operand has no root page.
    pub entries: I,
}

/// HPA_ARRAY_T of the `count` pages of `pages`; an array of one page is that page itself, and `root` stays
/// unused.
pub fn hpa_array<'a>(
    root: PhysAddr,
    count: usize,
    mut pages: impl Iterator<Item = PhysAddr> + Clone + 'a,
) -> Result<Encoded<HpaArray, impl Iterator<Item = u64> + 'a>, HpaListError> {
    let first = if count == 1 { pages.clone().next().unwrap_or(root) } else { root };
    let operand = HpaArray::of(first, count)?;
    let listed = if operand.root().is_some() { count } else { 0 };
    let entries = core::iter::from_fn(move || pages.next().map(PhysAddr::as_u64)).take(listed);
    Ok(Encoded { operand, entries })
}

/// HPA_LIST_INFO of the `count` pages of `pages`, beginning with the first.
pub fn hpa_list_info<'a>(
    root: PhysAddr,
    count: usize,
    pages: impl Iterator<Item = PhysAddr> + 'a,
) -> Result<Encoded<HpaListInfo, impl Iterator<Item = u64> + 'a>, HpaListError> {
    let operand = HpaListInfo::of(root, count)?;
    Ok(Encoded { operand, entries: pages.map(PhysAddr::as_u64).take(count) })
}

/// IOMMU_MT: the block of the trusted invalidation queue, that of its contexts, and `count` single pages.
pub fn iommu_mt<'a>(
    root: PhysAddr,
    blocks: [PhysRange; 2],
    count: usize,
    pages: impl Iterator<Item = PhysAddr> + 'a,
) -> Result<Encoded<PhysAddr, impl Iterator<Item = u64> + 'a>, HpaListError> {
    if count > IOMMU_MT_MAX_PAGES {
        return Err(HpaListError::Count(count));
    }
    // The list page of another form has the same rules.
    HpaListInfo::of(root, 1)?;
    let entry = |block: PhysRange| {
        let pages = block.size() / tdx_abi::PAGE_SIZE;
        let pages = u16::try_from(pages).map_err(|_| HpaListError::Count(HPA_LIST_MAX + 1))?;
        let block = IommuBlock { start: block.start(), pages };
        block.entry().ok_or(HpaListError::Address(block.start))
    };
    let [queue, contexts] = blocks;
    let heads = [entry(queue)?, entry(contexts)?];
    Ok(Encoded { operand: root, entries: heads.into_iter().chain(pages.map(PhysAddr::as_u64).take(count)) })
}

/// What a DELETE leaf is given for an object of `count` pages: the page that takes the list, or nothing.
pub const fn release(root: PhysAddr, count: usize) -> ReleaseOperand {
    if count == 1 { ReleaseOperand::SINGLE } else { ReleaseOperand::list(root) }
}

#[cfg(test)]
mod tests {
    extern crate std;

    use super::*;
    use std::vec::Vec;
    use tdx_abi::PAGE_SIZE;

    const ROOT: PhysAddr = PhysAddr::new(0xAB_C000);

    /// Every second page from 16 MiB on.
    fn pages(count: u64) -> impl Iterator<Item = PhysAddr> + Clone {
        (0..count).map(|page| PhysAddr::new((1 << 24) + 2 * page * PAGE_SIZE))
    }

    fn addresses(count: u64) -> Vec<u64> {
        pages(count).map(PhysAddr::as_u64).collect()
    }

    #[test]
    fn an_array_of_one_page_is_that_page_and_others_have_a_root() {
        for (count, operand) in [(1, 1 << 24), (2, 0xAB_C000 | 1 << 55), (512, 0xAB_C000 | 511 << 55)] {
            let encoded = hpa_array(ROOT, count, pages(count as u64)).unwrap();
            assert_eq!(encoded.operand.raw(), operand);
            let listed = if count == 1 { Vec::new() } else { addresses(count as u64) };
            assert_eq!(encoded.entries.collect::<Vec<_>>(), listed);
        }
        for count in [0, 513] {
            let refused = hpa_array(ROOT, count, pages(count as u64)).map(|encoded| encoded.operand);
            assert_eq!(refused, Err(HpaListError::Count(count)));
        }
    }

    #[test]
    fn a_list_names_its_last_entry() {
        for count in [1, 2, 512] {
            let encoded = hpa_list_info(ROOT, count, pages(600)).unwrap();
            assert_eq!(encoded.operand.into_bits(), 0xAB_C000 | (count as u64 - 1) << 55);
            assert_eq!(encoded.entries.collect::<Vec<_>>(), addresses(count as u64));
        }
        for count in [0, 513] {
            let refused = hpa_list_info(ROOT, count, pages(600)).map(|encoded| encoded.operand);
            assert_eq!(refused, Err(HpaListError::Count(count)));
        }
    }

    #[test]
    fn an_iommu_mt_begins_with_its_blocks() {
        let block =
            |start: u64, count: u64| PhysRange::from_size(PhysAddr::new(start), count * PAGE_SIZE).unwrap();
        for (size, low) in [(1, 0), (2, 2), (128, 128)] {
            for count in [1, 2, 510] {
                let blocks = [block(0x10_0000, size), block(0x20_0000, size)];
                let encoded = iommu_mt(ROOT, blocks, count, pages(count as u64)).unwrap();
                assert_eq!(encoded.operand, ROOT);
                let mut expected: Vec<u64> = [0x10_0000 | low, 0x20_0000 | low].into();
                expected.extend(addresses(count as u64));
                assert_eq!(encoded.entries.collect::<Vec<_>>(), expected);
            }
        }
        let refused = |blocks, count| iommu_mt(ROOT, blocks, count, pages(2)).map(|encoded| encoded.operand);
        let good = block(0x10_0000, 2);
        assert_eq!(refused([good; 2], 511), Err(HpaListError::Count(511)));
        let odd = block(0x10_1000, 2);
        assert_eq!(refused([good, odd], 2), Err(HpaListError::Address(odd.start())));
        let three = block(0x10_0000, 3);
        assert_eq!(refused([three, good], 2), Err(HpaListError::Address(three.start())));
        let huge = block(0, 1 << 17);
        assert_eq!(refused([huge, good], 2), Err(HpaListError::Count(513)));
    }

    #[test]
    fn only_the_list_of_an_object_of_more_pages_needs_a_page() {
        assert_eq!(release(ROOT, 1), ReleaseOperand(0));
        for count in [2, 512] {
            assert_eq!(release(ROOT, count), ReleaseOperand(0xAB_C000));
        }
    }
}
