//! DOE mailboxes of devices: whole data objects through configuration space.

use core::time::Duration;

use pcie::FunctionId;
use pcie::cap::DoeCapability;
use pcie::config::{Extended, ExtendedId, ReadConfig, Width, extended_capabilities};
use pcie::doe::{
    Discovery, DiscoveryError, DoeError, DoeRegisters, Driver, Object, ObjectType, Step, SupportedTypes,
    VendorId,
};

use crate::traits::PciBus;
use crate::tsm::Config;

/// Why an exchange brought nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ExchangeError {
    /// Nobody answers in configuration space.
    #[error("the function does not answer")]
    Gone,
    /// The mailbox answers, but not with what was asked for.
    #[error(transparent)]
    Mailbox(#[from] DoeError),
}

/// Why the list of types of a mailbox is not known.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DiscoverError {
    /// An exchange failed.
    #[error(transparent)]
    Exchange(#[from] ExchangeError),
    /// An answer makes no list.
    #[error(transparent)]
    List(#[from] DiscoveryError),
    /// The list has more types than any mailbox needs.
    #[error("more than {} types of data objects", SupportedTypes::MAX)]
    TooMany,
}

/// A mailbox of a function. Whoever holds it `&mut` is the only one who uses it.
#[derive(Debug)]
pub struct Mailbox {
    function: FunctionId,
    at: u16,
    version: u8,
    driver: Driver,
    types: Option<SupportedTypes>,
}

impl Mailbox {
    /// The mailboxes of `function`, in the order of its capabilities. None was used yet.
    pub fn all<P: PciBus + ?Sized>(bus: &P, function: FunctionId, mut each: impl FnMut(Self)) {
        let config = Config::new(bus, function);
        extended_capabilities(&config)
            .map_while(Result::ok)
            .filter(|found| found.id == ExtendedId::DOE)
            .for_each(|found| each(Self::at(&config, function, found)));
    }

    fn at(config: &impl ReadConfig, function: FunctionId, found: Extended) -> Self {
        let version = DoeCapability::read(config, found).version;
        Self { function, at: found.offset, version, driver: Driver::new(), types: None }
    }

    /// The function that has it.
    pub const fn function(&self) -> FunctionId {
        self.function
    }

    /// Types that it takes, once [`Self::discover`] has asked.
    pub fn types(&self) -> &[ObjectType] {
        self.types.as_ref().map_or(&[], SupportedTypes::as_slice)
    }

    /// True if it is known to take objects of this type.
    pub fn takes(&self, object_type: ObjectType) -> bool {
        self.types().contains(&object_type)
    }

    /// True once an abort has failed: until [`Self::revive`] every exchange fails at once.
    pub fn is_dead(&self) -> bool {
        self.driver.is_dead()
    }

    /// The function was reset.
    pub fn revive(&mut self) {
        self.driver.revive();
    }

    /// Asks for the types that it takes, unless that was done.
    pub fn discover<P: PciBus + ?Sized>(&mut self, bus: &P) -> Result<(), DiscoverError> {
        if self.types.is_some() {
            return Ok(());
        }
        let mut discovery = Discovery::new(self.version);
        let nobody = ObjectType { vendor: VendorId::NONE, kind: 0xff };
        let (mut types, mut count) = ([nobody; SupportedTypes::MAX], 0usize);
        while let Some(request) = discovery.request() {
            let mut response = [0; 4];
            let request = Object { object_type: ObjectType::DISCOVERY, payload: &request };
            let bytes = self.exchange(bus, request, &mut response)?;
            let found = discovery.take(response.get(..bytes).unwrap_or_default())?;
            // Every list begins with it.
            if found == ObjectType::DISCOVERY {
                continue;
            }
            *types.get_mut(count).ok_or(DiscoverError::TooMany)? = found;
            count += 1;
        }
        let known = SupportedTypes::new(types.get(..count).unwrap_or_default());
        self.types = Some(known.map_err(|_| DiscoverError::TooMany)?);
        Ok(())
    }

    /// Sends `request` and puts the payload of the response into `response`; how many bytes, padding
    /// included. Sleeps between looks at the mailbox.
    ///
    /// After an error of the mailbox it was aborted, and takes the next object.
    pub fn exchange<P: PciBus + ?Sized>(
        &mut self,
        bus: &P,
        request: Object<'_>,
        response: &mut [u8],
    ) -> Result<usize, ExchangeError> {
        let config = Config::new(bus, self.function);
        let mut registers = Registers { bus, function: self.function, at: self.at };
        if !config.is_there() {
            return Err(ExchangeError::Gone);
        }
        let mut exchange = self.driver.exchange(request, response);
        loop {
            match exchange.step(&mut registers, bus.now()) {
                Ok(Step::Done(bytes)) => return Ok(bytes),
                Ok(Step::Wait(time)) => wait(bus, &config, time)?,
                // Nobody tells a mailbox that is dead from one that was taken out, except its function.
                Err(_) if !config.is_there() => return Err(ExchangeError::Gone),
                Err(error) => return Err(error.into()),
            }
        }
    }
}

/// Sleeps. Ones from a function that was taken out look like a mailbox that is busy.
fn wait<P: PciBus + ?Sized>(bus: &P, config: &Config<'_, P>, time: Duration) -> Result<(), ExchangeError> {
    bus.wait(time);
    if config.is_there() { Ok(()) } else { Err(ExchangeError::Gone) }
}

/// The registers of a mailbox.
struct Registers<'a, P: ?Sized> {
    bus: &'a P,
    function: FunctionId,
    at: u16,
}

impl<P: PciBus + ?Sized> DoeRegisters for Registers<'_, P> {
    fn read32(&mut self, offset: u16) -> u32 {
        self.bus.config_read(self.function, self.at.saturating_add(offset), Width::Dword)
    }

    fn write32(&mut self, offset: u16, value: u32) {
        self.bus.config_write(self.function, self.at.saturating_add(offset), Width::Dword, value);
    }
}
