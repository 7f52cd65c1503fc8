//! Configuration space, and the mailbox in it.

use super::*;

#[test]
fn objects_go_through_the_mailbox_of_function_0() {
    let mut host = Host::new(&EndpointSpec::default());
    let doe = find_extended(host.config(first()), ExtendedId::DOE).unwrap().offset;
    // GET_VERSION in a data object.
    for dword in [0x0001_0001, 3, 0x0000_8410] {
        host.write(first(), doe + 0x10, Width::Dword, dword);
    }
    host.write(first(), doe + 8, Width::Dword, 1 << 31);
    let status = host.device.config_read(first(), doe + 0xc, Width::Dword).unwrap();
    assert_eq!(status, 1 << 31, "an object is ready");
    let mut read = || {
        let dword = host.device.config_read(first(), doe + 0x14, Width::Dword).unwrap();
        host.write(first(), doe + 0x14, Width::Dword, 0);
        dword
    };
    assert_eq!(read(), 0x0001_0001);
    let length = read();
    assert_eq!(read() & 0xffff, 0x0410, "VERSION");
    for _ in 3..length {
        read();
    }
    assert_eq!(host.device.config_read(first(), doe + 0xc, Width::Dword), Ok(0), "all was read");
    assert!(find_extended(host.config(second()), ExtendedId::DOE).is_none());
}

#[test]
fn where_no_function_is_all_bits_are_1() {
    let mut host = Host::new(&EndpointSpec::default());
    assert_eq!(host.device.config_read(at("3b:00.7"), 0, Width::Word), Ok(0xffff));
    host.write(at("3c:00.0"), 4, Width::Word, 0);
    assert!(host.device.config_read(first(), 1, Width::Dword).is_err(), "not aligned");
    assert!(host.device.config_read(first(), 4096, Width::Byte).is_err());
}
