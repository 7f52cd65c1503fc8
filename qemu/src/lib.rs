//! A QEMU plugin that turns a stock virtual machine into a TDX host.
