//! Ways to try many orders of steps.

use shuttle::scheduler::{DfsScheduler, PctScheduler, RandomScheduler};
use shuttle::{Config, MaxSteps, Runner};

/// The seed of every exploration: the same orders are tried each time.
const SEED: u64 = 0x7d_c0de;
/// Changes of priority per run of the second half of an exploration.
const DEPTH: usize = 4;
/// Steps of one run; whoever waits for more waits for ever.
const MOST_STEPS: usize = 400_000;

fn config() -> Config {
    let mut config = Config::new();
    config.stack_size = 0x10_0000;
    config.silence_warnings = true;
    config.max_steps = MaxSteps::FailAfter(MOST_STEPS);
    config
}

/// How many times as many runs as usual: the environment variable `TDXHOST_RACES_FACTOR`, else once.
/// Other than once, they begin with another seed too.
fn factor() -> usize {
    let factor = std::env::var("TDXHOST_RACES_FACTOR").ok().and_then(|text| text.parse().ok());
    factor.unwrap_or(1)
}

/// Runs `body` under `runs` orders: half of them drawn step by step, half with priorities that change
/// a few times.
pub fn explore(runs: usize, body: fn()) {
    let half = (runs * factor()).div_ceil(2);
    let seed = SEED + factor() as u64;
    Runner::new(RandomScheduler::new_from_seed(seed, half), config()).run(body);
    Runner::new(PctScheduler::new_from_seed(seed, DEPTH, half), config()).run(body);
}

/// Runs `body` under every order there is, up to `most`.
pub fn explore_all(most: usize, body: fn()) {
    Runner::new(DfsScheduler::new(Some(most), false), config()).run(body);
}
