//! The host side on a fake machine.

mod bring_up;
mod connect;
mod device;
mod errors;
mod fake;
mod image;
mod life;
mod memory;
mod page_list;
mod seamcall;
mod tdmr;
mod tsm;
mod update;
mod update_failed;
mod update_life;
mod update_refused;
mod upload;
mod vmx;
