//! What a SIGSTRUCT says, in the terms of this crate.

use tdx_image::Sigstruct;

use crate::profile::{HandoffVersions, Svn};

pub(super) fn svn(sigstruct: &Sigstruct) -> Svn {
    let tdx_image::Svn { major, minor } = sigstruct.svn();
    Svn { major, minor }
}

pub(super) fn handoff(sigstruct: &Sigstruct) -> HandoffVersions {
    HandoffVersions {
        module_hv: sigstruct.module_handoff_version(),
        min_update_hv: sigstruct.min_update_handoff_version(),
        no_downgrade: sigstruct.no_downgrade(),
        pages: sigstruct.handoff_pages_less_1.get(),
    }
}
