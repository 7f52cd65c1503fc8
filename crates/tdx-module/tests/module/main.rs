//! The module on a fake machine: each row of each leaf, their order, and the way through.

mod bring_up;
mod common;
mod coverage;
mod dispatch;
mod handoff;
mod install;
mod install_images;
mod install_session;
mod intel_images;
mod keys_and_tdmrs;
mod live_update;
mod properties;
mod reading;
mod seamldr_cleanup;
mod seamldr_seaminfo;
mod seamldr_shutdown;
mod sys_config;
mod sys_init;
mod sys_lp_init;
mod sys_shutdown;
mod sys_update;
mod tdx_1_0;
