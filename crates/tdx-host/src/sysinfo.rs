//! What the module tells of itself: global metadata as one snapshot.

use core::fmt;

use tdx_abi::cmr::MAX_CMRS;
use tdx_abi::connect::pages::IOMMU_MT_MAX_PAGES;
use tdx_abi::features::Features0;
use tdx_abi::hpa_list::HPA_LIST_MAX;
use tdx_abi::metadata::{FieldId, sys};
use tdx_abi::seamldr::Version;
use tdx_abi::status::StatusCode;
use tdx_abi::tdmr::{MAX_RESERVED_AREAS, MAX_TDMRS};
use tdx_abi::{PAGE_SIZE, PageLevel, PhysAddr, PhysRange};

use crate::connect::ConnectError;
use crate::error::HostError;
use crate::memory::CmrSet;
use crate::seamcall::{SeamPort, SeamcallError};
use crate::sync::SeqCell;
use crate::traits::{CpuPin, Seam};

/// Configurable CPUID leaves that are kept.
pub const MAX_CPUID_CONFIGS: usize = 32;

/// Must the module have a field?
#[derive(Clone, Copy, PartialEq, Eq)]
enum Need {
    /// Without it the host cannot work.
    Must,
    /// Newer modules have it.
    May,
}

/// When is a field read?
#[derive(Clone, Copy, PartialEq, Eq)]
enum When {
    /// Before TDH.SYS.CONFIG.
    Boot,
    /// Before TDH.SYS.CONFIG, which may change it, and again behind it.
    Config,
    /// Once an add-on feature is on, if the module has extensions.
    Ext,
    /// Once TDX Connect is on.
    Connect,
}

/// Single fields that are read. The index is the place in the snapshot.
const FIELDS: [(FieldId, Need, When); FIELD_COUNT] = [
    (sys::MAJOR_VERSION, Need::Must, When::Boot),
    (sys::MINOR_VERSION, Need::Must, When::Boot),
    (sys::UPDATE_VERSION, Need::Must, When::Boot),
    (sys::BUILD_DATE, Need::May, When::Boot),
    (sys::BUILD_NUM, Need::May, When::Boot),
    (sys::TDX_FEATURES0, Need::Must, When::Config),
    (sys::MODULE_HV, Need::May, When::Boot),
    (sys::MIN_UPDATE_HV, Need::May, When::Boot),
    (sys::NO_DOWNGRADE, Need::May, When::Boot),
    (sys::MAX_TDMRS, Need::Must, When::Boot),
    (sys::MAX_RESERVED_PER_TDMR, Need::Must, When::Boot),
    (sys::PAMT_4K_ENTRY_SIZE, Need::Must, When::Boot),
    (sys::PAMT_2M_ENTRY_SIZE, Need::Must, When::Boot),
    (sys::PAMT_1G_ENTRY_SIZE, Need::Must, When::Boot),
    (sys::TDR_BASE_SIZE, Need::Must, When::Config),
    (sys::TDCS_BASE_SIZE, Need::Must, When::Config),
    (sys::TDVPS_BASE_SIZE, Need::Must, When::Config),
    (sys::ATTRIBUTES_FIXED0, Need::Must, When::Config),
    (sys::ATTRIBUTES_FIXED1, Need::Must, When::Config),
    (sys::XFAM_FIXED0, Need::Must, When::Config),
    (sys::XFAM_FIXED1, Need::Must, When::Config),
    (sys::MAX_VCPUS_PER_TD, Need::May, When::Config),
    (sys::NUM_CPUID_CONFIG, Need::Must, When::Config),
    (sys::NUM_CMRS, Need::Must, When::Boot),
    (sys::MEMORY_POOL_REQUIRED_PAGES, Need::Must, When::Ext),
    (sys::EXT_REQUIRED, Need::Must, When::Ext),
    (sys::IDE_MT_PAGE_COUNT, Need::Must, When::Connect),
    (sys::SPDM_MT_PAGE_COUNT, Need::Must, When::Connect),
    (sys::IOMMU_MT_PAGE_COUNT, Need::Must, When::Connect),
    (sys::SPDM_MAX_DEV_INFO_PAGES, Need::Must, When::Connect),
];

const FIELD_COUNT: usize = 30;
/// The first rows are the version and its build, the only ones that are read again behind an update.
const VERSION_ROWS: usize = 5;
const VERSION_PRESENT: u64 = (1 << VERSION_ROWS) - 1;
const LEAVES_AT: usize = FIELD_COUNT;
const VALUES_AT: usize = LEAVES_AT + MAX_CPUID_CONFIGS;
const CMR_BASES_AT: usize = VALUES_AT + 2 * MAX_CPUID_CONFIGS;
const CMR_SIZES_AT: usize = CMR_BASES_AT + MAX_CMRS;
const PRESENT_AT: usize = CMR_SIZES_AT + MAX_CMRS;
const WORDS: usize = PRESENT_AT + 1;

/// A CPUID leaf of which a TD may be given bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CpuidConfigEntry {
    /// Leaf.
    pub leaf: u32,
    /// Sub-leaf; all ones if the leaf has none.
    pub subleaf: u32,
    /// EAX in bits 31:0, EBX above: configurable bits.
    pub eax_ebx: u64,
    /// ECX in bits 31:0, EDX above.
    pub ecx_edx: u64,
}

/// Pages of the objects of TDX Connect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConnectSizes {
    /// A stream.
    pub ide_mt: u16,
    /// A session.
    pub spdm_mt: u16,
    /// A unit, its two queue blocks not counted.
    pub iommu_mt: u16,
    /// Most of a device's information.
    pub max_dev_info: u16,
}

/// The module's global metadata at one moment.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct SysInfo {
    words: [u64; WORDS],
}

impl SysInfo {
    /// Value of a field that is read; `None` for one that is not, or that the module lacks.
    pub fn field(&self, field: FieldId) -> Option<u64> {
        let index = FIELDS.iter().position(|row| row.0 == field)?;
        let present = self.words.get(PRESENT_AT)? >> index & 1 == 1;
        if present { self.words.get(index).copied() } else { None }
    }

    /// Value of a field that the module must have; 0 in its absence cannot occur after [`read`].
    fn must(&self, field: FieldId) -> u64 {
        self.field(field).unwrap_or(0)
    }

    fn small(&self, field: FieldId) -> u16 {
        u16::try_from(self.must(field)).unwrap_or(u16::MAX)
    }

    /// Version of the module.
    pub fn version(&self) -> Version {
        Version::new(
            self.small(sys::MAJOR_VERSION),
            self.small(sys::MINOR_VERSION),
            self.small(sys::UPDATE_VERSION),
        )
    }

    /// Version of the module that was read last, running or not.
    pub(crate) fn last_version(&self) -> Version {
        let mut seen = *self;
        put(&mut seen, PRESENT_AT, VERSION_PRESENT);
        seen.version()
    }

    /// The hand-off version that the module writes; `None` if it does not tell.
    pub(crate) fn handoff_version(&self) -> Option<u16> {
        self.field(sys::MODULE_HV).and_then(|value| u16::try_from(value).ok())
    }

    /// Notes the hand-off version that is newer than what is kept.
    pub(crate) fn set_handoff_version(&mut self, version: u16) {
        self.note(sys::MODULE_HV, u64::from(version));
    }

    /// True unless the module that it tells of was shut down.
    pub(crate) fn is_current(&self) -> bool {
        self.field(sys::MAJOR_VERSION).is_some()
    }

    /// The module goes: its version is nobody's from here on, the rest is kept.
    pub(crate) fn withdraw_version(&mut self) {
        let present = self.words.get(PRESENT_AT).copied().unwrap_or(0);
        put(self, PRESENT_AT, present & !VERSION_PRESENT);
    }

    /// Build number; `None` if the module does not tell.
    pub fn build_num(&self) -> Option<u16> {
        self.field(sys::BUILD_NUM).and_then(|value| u16::try_from(value).ok())
    }

    /// Build date, BCD yyyymmdd; `None` if the module does not tell.
    pub fn build_date(&self) -> Option<u32> {
        self.field(sys::BUILD_DATE).and_then(|value| u32::try_from(value).ok())
    }

    /// TDX_FEATURES0.
    pub fn features0(&self) -> Features0 {
        Features0::from_bits(self.must(sys::TDX_FEATURES0))
    }

    /// TDMRs that TDH.SYS.CONFIG takes, at most [`MAX_TDMRS`].
    pub fn max_tdmrs(&self) -> u16 {
        self.small(sys::MAX_TDMRS)
    }

    /// Reserved areas per TDMR, at most [`MAX_RESERVED_AREAS`].
    pub fn max_reserved_per_tdmr(&self) -> u16 {
        self.small(sys::MAX_RESERVED_PER_TDMR)
    }

    /// Bytes of a PAMT entry of `level`.
    pub fn pamt_entry_size(&self, level: PageLevel) -> u64 {
        self.must(match level {
            PageLevel::Size4K => sys::PAMT_4K_ENTRY_SIZE,
            PageLevel::Size2M => sys::PAMT_2M_ENTRY_SIZE,
            PageLevel::Size1G => sys::PAMT_1G_ENTRY_SIZE,
        })
    }

    /// Pages that the module's extensions still want; `None` before they were asked about.
    pub fn pool_required_pages(&self) -> Option<u32> {
        self.field(sys::MEMORY_POOL_REQUIRED_PAGES).and_then(|value| u32::try_from(value).ok())
    }

    /// True if the extensions must be started; `None` before they were asked about.
    pub fn ext_required(&self) -> Option<bool> {
        self.field(sys::EXT_REQUIRED).map(|value| value != 0)
    }

    /// Pages of the objects of TDX Connect; `None` while it is off.
    pub fn connect_sizes(&self) -> Option<ConnectSizes> {
        let pages = |field| self.field(field).and_then(|value| u16::try_from(value).ok());
        Some(ConnectSizes {
            ide_mt: pages(sys::IDE_MT_PAGE_COUNT)?,
            spdm_mt: pages(sys::SPDM_MT_PAGE_COUNT)?,
            iommu_mt: pages(sys::IOMMU_MT_PAGE_COUNT)?,
            max_dev_info: pages(sys::SPDM_MAX_DEV_INFO_PAGES)?,
        })
    }

    /// Notes what the extensions still want.
    pub(crate) fn set_pool_required_pages(&mut self, pages: u32) {
        self.note(sys::MEMORY_POOL_REQUIRED_PAGES, u64::from(pages));
    }

    fn note(&mut self, field: FieldId, value: u64) {
        if let Some(index) = FIELDS.iter().position(|row| row.0 == field) {
            put(self, index, value);
            let present = self.words.get(PRESENT_AT).copied().unwrap_or(0);
            put(self, PRESENT_AT, present | 1 << index);
        }
    }

    /// VCPUs that one TD can have; `None` if the module does not tell.
    pub fn max_vcpus_per_td(&self) -> Option<u16> {
        self.field(sys::MAX_VCPUS_PER_TD).and_then(|value| u16::try_from(value).ok())
    }

    /// Configurable CPUID leaves.
    pub fn cpuid_configs(&self) -> impl Iterator<Item = CpuidConfigEntry> + '_ {
        let count = usize::from(self.small(sys::NUM_CPUID_CONFIG)).min(MAX_CPUID_CONFIGS);
        let leaves = self.words.get(LEAVES_AT..LEAVES_AT + count).unwrap_or_default();
        let values = self.words.get(VALUES_AT..VALUES_AT + 2 * count).unwrap_or_default();
        leaves.iter().zip(values.chunks_exact(2)).map(|(&leaf, value)| CpuidConfigEntry {
            leaf: low(leaf),
            subleaf: low(leaf >> 32),
            eax_ebx: value.first().copied().unwrap_or(0),
            ecx_edx: value.get(1).copied().unwrap_or(0),
        })
    }

    /// The convertible memory ranges as the module reports them, unused entries skipped.
    pub fn cmrs(&self) -> impl Iterator<Item = PhysRange> + '_ {
        let bases = self.words.get(CMR_BASES_AT..CMR_BASES_AT + MAX_CMRS).unwrap_or_default();
        let sizes = self.words.get(CMR_SIZES_AT..CMR_SIZES_AT + MAX_CMRS).unwrap_or_default();
        bases
            .iter()
            .zip(sizes)
            .filter(|(_, size)| **size != 0)
            .filter_map(|(&base, &size)| PhysRange::from_size(PhysAddr::new(base), size))
    }

    /// The convertible memory ranges in order, those that touch joined.
    pub fn cmr_set(&self) -> CmrSet {
        CmrSet::new(self.cmrs()).unwrap_or_default()
    }
}

impl fmt::Debug for SysInfo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SysInfo")
            .field("version", &format_args!("{}", self.version()))
            .field("features0", &self.features0())
            .finish_non_exhaustive()
    }
}

#[allow(clippy::cast_possible_truncation)] // Takes the low half on purpose.
const fn low(word: u64) -> u32 {
    word as u32
}

/// A snapshot that readers take without a lock and never see torn.
pub type SysInfoCell = SeqCell<WORDS>;

impl SysInfoCell {
    /// Publishes `info`.
    pub fn set(&self, info: &SysInfo) {
        self.publish(&info.words);
    }

    /// The snapshot; `None` before the first one.
    pub fn get(&self) -> Option<SysInfo> {
        self.read().map(|words| SysInfo { words })
    }
}

/// Reads everything, from the CPU of `pin`, which has run TDH.SYS.LP.INIT.
pub(crate) fn read<S: Seam + ?Sized>(port: &SeamPort<'_, S>, pin: &CpuPin<'_>) -> Result<SysInfo, HostError> {
    let mut info = SysInfo { words: [0; WORDS] };
    read_fields(port, pin, &mut info, |when| matches!(when, When::Boot | When::Config))?;
    validate(&info)?;
    read_cpuid(port, pin, &mut info)?;
    for k in 0..u32::from(info.small(sys::NUM_CMRS)) {
        let place = k as usize;
        let base = read_field(port, pin, sys::CMR_BASE.element(k))?;
        let size = read_field(port, pin, sys::CMR_SIZE.element(k))?;
        if PhysRange::from_size(PhysAddr::new(base), size).is_none() {
            return Err(HostError::MetadataInvalid { field: sys::CMR_SIZE.element(k), value: size });
        }
        put(&mut info, CMR_BASES_AT + place, base);
        put(&mut info, CMR_SIZES_AT + place, size);
    }
    Ok(info)
}

/// Reads the version of the module that took over; everything else keeps the value of its predecessor,
/// as an update switches nothing on. After an error `info` tells of no module.
pub(crate) fn refresh_version<S: Seam + ?Sized>(
    port: &SeamPort<'_, S>,
    pin: &CpuPin<'_>,
    info: &mut SysInfo,
) -> Result<(), (FieldId, SeamcallError)> {
    info.withdraw_version();
    let mut fresh = *info;
    for (index, &(field, need, _)) in FIELDS.iter().enumerate().take(VERSION_ROWS) {
        match port.sys_rd(pin, field) {
            Ok(value) => {
                put(&mut fresh, index, value);
                let present = fresh.words.get(PRESENT_AT).copied().unwrap_or(0);
                put(&mut fresh, PRESENT_AT, present | 1 << index);
            }
            Err(error) if need == Need::May && error.is(StatusCode::METADATA_FIELD_ID_INCORRECT) => {}
            Err(error) => return Err((field, error)),
        }
    }
    *info = fresh;
    Ok(())
}

/// Reads again what TDH.SYS.CONFIG may have changed.
pub(crate) fn refresh_after_config<S: Seam + ?Sized>(
    port: &SeamPort<'_, S>,
    pin: &CpuPin<'_>,
    info: &mut SysInfo,
) -> Result<(), HostError> {
    read_fields(port, pin, info, |when| when == When::Config)?;
    validate(info)?;
    read_cpuid(port, pin, info)
}

/// Most pages that extensions can want: 4 GiB.
const MAX_POOL_PAGES: u64 = 1 << 20;

/// Reads what the extensions and TDX Connect need, the feature being on.
pub(crate) fn read_connect<S: Seam + ?Sized>(
    port: &SeamPort<'_, S>,
    pin: &CpuPin<'_>,
    info: &mut SysInfo,
) -> Result<(), ConnectError> {
    let extensions = info.features0().contains(Features0::EXT);
    for &(field, _, when) in &FIELDS {
        let limit = match (when, field) {
            (When::Ext, sys::MEMORY_POOL_REQUIRED_PAGES) if extensions => 0..=MAX_POOL_PAGES,
            (When::Ext, _) if extensions => 0..=u64::from(u8::MAX),
            (When::Connect, sys::IOMMU_MT_PAGE_COUNT) => 0..=IOMMU_MT_MAX_PAGES as u64,
            (When::Connect, _) => 1..=HPA_LIST_MAX as u64,
            (When::Boot | When::Config | When::Ext, _) => continue,
        };
        let value =
            port.sys_rd(pin, field).map_err(|error| ConnectError::MetadataMissing { field, error })?;
        if !limit.contains(&value) {
            return Err(ConnectError::MetadataInvalid { field, value });
        }
        info.note(field, value);
    }
    Ok(())
}

fn read_fields<S: Seam + ?Sized>(
    port: &SeamPort<'_, S>,
    pin: &CpuPin<'_>,
    info: &mut SysInfo,
    wanted: impl Fn(When) -> bool,
) -> Result<(), HostError> {
    for (index, &(field, need, when)) in FIELDS.iter().enumerate() {
        if !wanted(when) {
            continue;
        }
        match port.sys_rd(pin, field) {
            Ok(value) => {
                put(info, index, value);
                let present = info.words.get(PRESENT_AT).copied().unwrap_or(0);
                put(info, PRESENT_AT, present | 1 << index);
            }
            Err(error) if need == Need::May && error.is(StatusCode::METADATA_FIELD_ID_INCORRECT) => {}
            Err(error) => return Err(read_failed(index, field, error)),
        }
    }
    Ok(())
}

fn read_cpuid<S: Seam + ?Sized>(
    port: &SeamPort<'_, S>,
    pin: &CpuPin<'_>,
    info: &mut SysInfo,
) -> Result<(), HostError> {
    for k in 0..u32::from(info.small(sys::NUM_CPUID_CONFIG)) {
        let place = k as usize;
        let leaf = read_field(port, pin, sys::CPUID_CONFIG_LEAVES.element(k))?;
        put(info, LEAVES_AT + place, leaf);
        for half in 0..2u32 {
            let value = read_field(port, pin, sys::CPUID_CONFIG_VALUES.element(2 * k + half))?;
            put(info, VALUES_AT + 2 * place + half as usize, value);
        }
    }
    Ok(())
}

fn read_field<S: Seam + ?Sized>(
    port: &SeamPort<'_, S>,
    pin: &CpuPin<'_>,
    field: FieldId,
) -> Result<u64, HostError> {
    port.sys_rd(pin, field).map_err(|error| from_read(field, error))
}

fn put(info: &mut SysInfo, place: usize, value: u64) {
    if let Some(word) = info.words.get_mut(place) {
        *word = value;
    }
}

/// A TDX 1.0 module does not know the leaf: it says so at the very first field.
fn read_failed(index: usize, field: FieldId, error: SeamcallError) -> HostError {
    let unknown_leaf = error.is(StatusCode::SYS_NOT_READY) || error.is(StatusCode::OPERAND_INVALID);
    if index == 0 && unknown_leaf {
        return HostError::ModuleTooOld { error };
    }
    from_read(field, error)
}

fn from_read(field: FieldId, error: SeamcallError) -> HostError {
    crate::bringup::transport(error).unwrap_or(HostError::MetadataReadFailed { field, error })
}

/// Refuses values that would lead the host astray.
fn validate(info: &SysInfo) -> Result<(), HostError> {
    let within = |field: FieldId, low: u64, high: u64| {
        let value = info.must(field);
        if (low..=high).contains(&value) { Ok(()) } else { Err(HostError::MetadataInvalid { field, value }) }
    };
    within(sys::MAX_TDMRS, 1, MAX_TDMRS as u64)?;
    within(sys::MAX_RESERVED_PER_TDMR, 1, MAX_RESERVED_AREAS as u64)?;
    for level in [sys::PAMT_4K_ENTRY_SIZE, sys::PAMT_2M_ENTRY_SIZE, sys::PAMT_1G_ENTRY_SIZE] {
        within(level, 1, PAGE_SIZE)?;
    }
    within(sys::NUM_CPUID_CONFIG, 0, MAX_CPUID_CONFIGS as u64)?;
    within(sys::NUM_CMRS, 1, MAX_CMRS as u64)
}
