//! Scenarios: a machine, what happens to it, and what must come of it.

mod device;
mod faulty;
mod file;
mod phases;
mod report;
mod rig;
mod run;
mod update;

pub use device::{ConnectStep, During, DuringWhat, RefreshName, Tampering};
pub use faulty::{FaultyStep, InterruptedStep};
pub use file::{Case, Expectation, Limits, RulesName, Scenario, ScenarioError, SleepMode, Step};
pub use phases::PhaseClock;
pub use report::{CaseReport, PhaseReport, RunReport, StepReport, peak_rss_kib};
pub use rig::{Rig, RigError};
pub use run::{RunOptions, Yield, run};
pub use update::{Damage, End, PhaseName, UpdateStep};
