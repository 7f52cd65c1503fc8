//! The files by which user space sees TSMs, devices and streams: names, modes, when each is there, and what
//! it shows.

/// Directory of an attribute.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Directory {
    /// `/sys/class/tsm/tsmN`.
    Tsm,
    /// A host bridge, `/sys/devices/pciDDDD:BB`.
    HostBridge,
    /// A PCI function, `/sys/bus/pci/devices/DDDD:BB:DD.F`.
    Function,
    /// `tsm/` of a PCI function.
    FunctionTsm,
    /// `doe_features/` of a PCI function.
    DoeFeatures,
}

impl Directory {
    /// All of them.
    pub const ALL: [Self; 5] =
        [Self::Tsm, Self::HostBridge, Self::Function, Self::FunctionTsm, Self::DoeFeatures];

    /// Its path, with numbers as letters.
    pub const fn path(self) -> &'static str {
        match self {
            Self::Tsm => "/sys/class/tsm/tsmN",
            Self::HostBridge => "/sys/devices/pciDDDD:BB",
            Self::Function => "/sys/bus/pci/devices/DDDD:BB:DD.F",
            Self::FunctionTsm => "/sys/bus/pci/devices/DDDD:BB:DD.F/tsm",
            Self::DoeFeatures => "/sys/bus/pci/devices/DDDD:BB:DD.F/doe_features",
        }
    }
}

/// When an attribute is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Visible {
    /// On functions that a TSM could manage or does manage, while one is registered.
    Link,
    /// As [`Visible::Link`], on function 0 with a DSM alone.
    Dsm,
    /// As [`Visible::Link`], on a DSM and on functions whose DSM has the TEE-IO bit.
    DsmOrTee,
    /// As [`Visible::Link`], on a DSM with the TEE-IO bit and on functions whose DSM has it.
    Tee,
    /// While the bridge has secure streams.
    Streams,
    /// One per stream that is registered below the bridge.
    PerStream,
    /// While a stream of that bridge is managed by this TSM.
    PerBridge,
    /// The function has a DOE mailbox.
    Mailbox,
    /// One per type of data object that a mailbox of the function takes, discovery left out.
    PerFeature,
}

impl Visible {
    /// In words.
    pub const fn words(self) -> &'static str {
        match self {
            Self::Link => "a TSM is registered, and the function has a DSM or is managed by one",
            Self::Dsm => "a TSM is registered, and the function is function 0 with IDE or TEE-IO",
            Self::DsmOrTee => {
                "a TSM is registered, and the function is function 0 with IDE or TEE-IO or its DSM has TEE-IO"
            }
            Self::Tee => "a TSM is registered, and the function's DSM, or the function as DSM, has TEE-IO",
            Self::Streams => "the host bridge has secure streams",
            Self::PerStream => "one per registered stream",
            Self::PerBridge => "at least one stream below that bridge is managed by this TSM",
            Self::Mailbox => "the function has a DOE mailbox",
            Self::PerFeature => "one per type of data object that the function takes, discovery left out",
        }
    }

    /// Is an attribute of `tsm/`, or `authenticated`, there on a function with these facts?
    pub const fn on(self, facts: &LinkFacts) -> bool {
        let link = facts.link_tsm && facts.express && (facts.dsm_capable || facts.managed);
        match self {
            Self::Link => link,
            Self::Dsm => link && facts.dsm_capable,
            Self::DsmOrTee => link && (facts.dsm_capable || facts.managed && facts.dsm_has_tee),
            Self::Tee => link && (facts.dsm_capable && facts.has_tee || facts.managed && facts.dsm_has_tee),
            Self::Streams | Self::PerStream | Self::PerBridge | Self::Mailbox | Self::PerFeature => false,
        }
    }
}

/// What the attributes of a function depend on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[allow(clippy::struct_excessive_bools)] // Each is a fact of its own.
pub struct LinkFacts {
    /// A TSM that manages links is registered.
    pub link_tsm: bool,
    /// A PCI Express function.
    pub express: bool,
    /// Function 0, physical, of an endpoint or upstream port, with IDE or TEE-IO.
    pub dsm_capable: bool,
    /// It has the TEE-IO bit.
    pub has_tee: bool,
    /// A TSM manages it: it is connected, or its DSM is.
    pub managed: bool,
    /// The DSM that manages it has the TEE-IO bit.
    pub dsm_has_tee: bool,
}

/// What an attribute shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Content {
    /// The TSM that the function is connected to.
    Connect,
    /// Takes the name of the TSM.
    Disconnect,
    /// The TSM, while a TDI is bound.
    Bound,
    /// The DSM.
    Dsm,
    /// As [`Content::Connect`].
    Authenticated,
    /// Streams that are left.
    AvailableStreams,
    /// A link to the endpoint.
    StreamLink,
    /// A link to the bridge.
    BridgeLink,
    /// The type of discoveries.
    DoeDiscovery,
    /// Another type of data object.
    DoeFeature,
}

/// An attribute, or a link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TsmAttribute {
    /// Where.
    pub directory: Directory,
    /// Name; letters for what varies.
    pub name: &'static str,
    /// Permission bits; 0 for a link.
    pub mode: u16,
    /// When it is there.
    pub visible: Visible,
    /// What it shows.
    pub content: Content,
    /// What reading it gives, `None` if it cannot be read.
    pub reads: Option<&'static str>,
    /// What may be written, and the errors; `None` if nothing may.
    pub writes: Option<&'static str>,
}

/// All attributes and links of TDX Connect.
pub const TSM_ATTRIBUTES: [TsmAttribute; 10] = [
    TsmAttribute {
        directory: Directory::Function,
        name: "authenticated",
        mode: 0o444,
        visible: Visible::Link,
        content: Content::Authenticated,
        reads: Some("the same text as `tsm/connect`"),
        writes: None,
    },
    TsmAttribute {
        directory: Directory::FunctionTsm,
        name: "connect",
        mode: 0o644,
        visible: Visible::Dsm,
        content: Content::Connect,
        reads: Some("`tsmN`, or an empty line"),
        writes: Some(
            "`tsmN`; -EINVAL: no name of a TSM; -EBUSY: connected; -ENXIO: no such TSM, or no mailbox for SPDM; \
             else what stopped the connect",
        ),
    },
    TsmAttribute {
        directory: Directory::FunctionTsm,
        name: "disconnect",
        mode: 0o200,
        visible: Visible::Dsm,
        content: Content::Disconnect,
        reads: None,
        writes: Some("the name that `connect` shows; -ENXIO: not connected; -EINVAL: another name"),
    },
    TsmAttribute {
        directory: Directory::FunctionTsm,
        name: "bound",
        mode: 0o444,
        visible: Visible::Tee,
        content: Content::Bound,
        reads: Some("`tsmN` while a TDI is bound, else an empty line"),
        writes: None,
    },
    TsmAttribute {
        directory: Directory::FunctionTsm,
        name: "dsm",
        mode: 0o444,
        visible: Visible::DsmOrTee,
        content: Content::Dsm,
        reads: Some("the function whose DSM manages this one, `0000:3b:00.0`, or an empty line"),
        writes: None,
    },
    TsmAttribute {
        directory: Directory::DoeFeatures,
        name: "doe_discovery",
        mode: 0o444,
        visible: Visible::Mailbox,
        content: Content::DoeDiscovery,
        reads: Some("`0001:00`"),
        writes: None,
    },
    TsmAttribute {
        directory: Directory::DoeFeatures,
        name: "VVVV:TT",
        mode: 0o444,
        visible: Visible::PerFeature,
        content: Content::DoeFeature,
        reads: Some("its own name: vendor and type in hexadecimal"),
        writes: None,
    },
    TsmAttribute {
        directory: Directory::HostBridge,
        name: "available_secure_streams",
        mode: 0o444,
        visible: Visible::Streams,
        content: Content::AvailableStreams,
        reads: Some("streams that are left, decimal"),
        writes: None,
    },
    TsmAttribute {
        directory: Directory::HostBridge,
        name: "streamH.R.E",
        mode: 0,
        visible: Visible::PerStream,
        content: Content::StreamLink,
        reads: Some(
            "link to the endpoint; H: place on the bridge, R and E: register blocks of root port and endpoint",
        ),
        writes: None,
    },
    TsmAttribute {
        directory: Directory::Tsm,
        name: "pciDDDD:BB",
        mode: 0,
        visible: Visible::PerBridge,
        content: Content::BridgeLink,
        reads: Some("link to the host bridge"),
        writes: None,
    },
];

#[cfg(test)]
mod tests {
    use super::*;

    const NOTHING: LinkFacts = LinkFacts {
        link_tsm: false,
        express: true,
        dsm_capable: false,
        has_tee: false,
        managed: false,
        dsm_has_tee: false,
    };

    #[test]
    fn attributes_of_a_function_come_and_go_as_linux_has_them() {
        let tsm = LinkFacts { link_tsm: true, ..NOTHING };
        let dsm = LinkFacts { dsm_capable: true, ..tsm };
        let managed = LinkFacts { managed: true, ..tsm };
        // (facts, link, dsm, dsm or TEE, TEE)
        for (facts, expected) in [
            (NOTHING, [false; 4]),
            (LinkFacts { dsm_capable: true, has_tee: true, ..NOTHING }, [false; 4]),
            (tsm, [false; 4]),
            (dsm, [true, true, true, false]),
            (LinkFacts { has_tee: true, ..dsm }, [true; 4]),
            (LinkFacts { express: false, ..dsm }, [false; 4]),
            (managed, [true, false, false, false]),
            (LinkFacts { dsm_has_tee: true, ..managed }, [true, false, true, true]),
            (LinkFacts { managed: true, dsm_has_tee: true, has_tee: true, ..dsm }, [true; 4]),
        ] {
            let rules = [Visible::Link, Visible::Dsm, Visible::DsmOrTee, Visible::Tee];
            assert_eq!(rules.map(|rule| rule.on(&facts)), expected, "{facts:?}");
        }
    }

    #[test]
    fn only_what_can_be_read_is_readable_and_only_what_takes_something_is_writable() {
        for attribute in TSM_ATTRIBUTES.iter().filter(|attribute| attribute.mode != 0) {
            assert_eq!(attribute.mode & 0o444 != 0, attribute.reads.is_some(), "{}", attribute.name);
            assert_eq!(attribute.mode & 0o222 != 0, attribute.writes.is_some(), "{}", attribute.name);
        }
    }

    #[test]
    fn every_directory_has_attributes() {
        for directory in Directory::ALL {
            assert!(TSM_ATTRIBUTES.iter().any(|attribute| attribute.directory == directory), "{directory:?}");
        }
    }
}
