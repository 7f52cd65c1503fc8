//! What scenario files may say, and what they are told if they say something else.

use super::super::device::DuringWhat;
use super::*;

#[test]
fn a_scenario_names_its_cases_and_steps() {
    let scenario = Scenario::parse(
        "inline",
        r#"
        name = "one"
        platform = "tiny"
        [[case]]
        name = "no TDX"
        faults = ["msr-0x87-faults"]
        steps = [{ do = "power-on" }, { do = "bring-up", expect = "no-tdx" }, { do = "expect", device = false }]
        "#,
    )
    .unwrap();
    assert_eq!(scenario.cases.len(), 1);
    assert!(
        matches!(&scenario.cases[0].steps[1], Step::BringUp { expect: Some(name), .. } if name == "no-tdx")
    );
    assert!(matches!(&scenario.cases[0].steps[2], Step::Expect(what) if what.device == Some(false)));
}

fn step(step: &str) -> Result<Step, ScenarioError> {
    let text = format!("name = 'x'\n[[case]]\nname = 'y'\nsteps = [{step}]");
    Scenario::parse("inline", &text).map(|mut scenario| scenario.cases.remove(0).steps.remove(0))
}

#[test]
fn steps_of_updates_are_read_with_all_their_keys() {
    let Step::Update(update) = step(
        "{ do = 'update', version = '1.5.34', profile = '1.5.28', header = '0x100', svn = [1, 15], \
         cpus = [0x806f0], pool-pages = 80, meanwhile = ['3b:00.0'], damage = 'signature', ignore-x2apic-limit = true, times = 2, \
         expect = 'install-failed-recoverable' }",
    )
    .unwrap() else {
        panic!("another step")
    };
    assert_eq!((update.version.as_deref(), update.profile.as_deref()), (Some("1.5.34"), Some("1.5.28")));
    assert_eq!((update.svn, update.ignore_x2apic_limit), (Some([1, 15]), true));
    assert_eq!((update.times.map(u32::from), update.pool_pages), (Some(2), Some(80)));
    assert_eq!(update.expect.as_deref(), Some("install-failed-recoverable"));
    assert!(matches!(
        step("{ do = 'update', file = 'x.blob' }").unwrap(),
        Step::Update(update) if update.file.is_some() && update.expect.is_none()
    ));
    for (name, phase) in [
        ("shutdown", PhaseName::Shutdown),
        ("install", PhaseName::Install),
        ("init", PhaseName::Init),
        ("update", PhaseName::Update),
    ] {
        let failing =
            step(&format!("{{ do = 'fail-update', at = '{name}', cpu = 3, status = 'vmfailinvalid' }}"));
        assert!(matches!(
            failing.unwrap(),
            Step::FailUpdate { at, cpu: 3, status: Some(status), expect: None }
                if at == phase && status == "vmfailinvalid"
        ));
        let crashing = step(&format!("{{ do = 'crash-update', at = '{name}' }}")).unwrap();
        assert!(matches!(crashing, Step::CrashUpdate { at, expect: None } if at == phase));
        let losing = step(&format!("{{ do = 'power-loss', at = '{name}' }}")).unwrap();
        assert!(matches!(losing, Step::PowerLoss { at, expect: None } if at == phase));
    }
    let calling = step("{ do = 'call-module', expect = 'module-gone' }").unwrap();
    assert_eq!(calling.expected_error(), Some("module-gone"));
    assert!(matches!(calling, Step::CallModule { .. }));
}

#[test]
fn steps_of_updates_refuse_what_they_do_not_know_by_its_name() {
    for (text, words) in [
        ("{ do = 'update', version = '1.5.34', speed = 1 }", &["unknown field `speed`"][..]),
        ("{ do = 'update', version = '1.5.34', damage = 'rust' }", &["`rust`", "`signature`"]),
        ("{ do = 'update', version = '1.5.34', expect = 'moduel-gone' }", &["did you mean `module-gone`?"]),
        ("{ do = 'fail-update', cpu = 0 }", &["missing field `at`"]),
        ("{ do = 'fail-update', at = 'install' }", &["missing field `cpu`"]),
        ("{ do = 'fail-update', at = 'lunch', cpu = 0 }", &["`lunch`", "`shutdown`"]),
        ("{ do = 'crash-update' }", &["missing field `at`"]),
        ("{ do = 'crash-update', at = 'install', cpu = 0 }", &["unknown field `cpu`"]),
        ("{ do = 'power-loss', at = 'lunch' }", &["`lunch`", "`update`"]),
        ("{ do = 'call-module', cpu = 1 }", &["unknown field `cpu`"]),
    ] {
        let error = step(text).unwrap_err().to_string();
        assert!(words.iter().all(|word| error.contains(word)), "{text}: {error}");
        assert!(!error.contains('\n'), "{error:?}");
    }
}

#[test]
fn unknown_keys_and_steps_are_errors_that_name_them() {
    for (text, word) in [
        ("name = 'x'\nspeed = 1\n[[case]]\nname = 'y'", "speed"),
        ("name = 'x'\n[[case]]\nname = 'y'\nsteps = [{ do = 'dance' }]", "dance"),
        ("name = 'x'\n[[case]]\nname = 'y'\nsteps = [{ do = 'offline', cpu = 1, hard = true }]", "hard"),
        ("name = 'x'\n[[case]]\nname = 'y'\nsteps = [{ do = 'expect', wheather = 'fine' }]", "wheather"),
    ] {
        let error = Scenario::parse("inline", text).unwrap_err().to_string();
        assert!(error.contains(word), "{error}");
    }
}

#[test]
fn names_that_nothing_has_are_refused_before_the_first_case_runs() {
    for (case, sentence) in [
        (
            "steps = [{ do = 'bring-up', expect = 'no-txd' }]",
            "no error is named `no-txd`; did you mean `no-tdx`?",
        ),
        (
            "steps = [{ do = 'read', attribute = 'version', expect = 'quixotic' }]",
            "no error is named `quixotic`; `tdxhost explain error` lists them",
        ),
        ("steps = [{ do = 'expect', state = 'redy' }]", "no state is named `redy`; did you mean `ready`?"),
        ("faults = ['no-vmxx']", "no fault of the catalogue: unknown variant `no-vmxx`"),
        ("steps = [{ do = 'inject', fault = 'no-vmxx' }]", "no fault of the catalogue"),
    ] {
        let text = format!("name = 'x'\n[[case]]\nname = 'y'\n{case}");
        let error = Scenario::parse("inline", &text).unwrap_err().to_string();
        assert!(error.starts_with("scenario inline, case \"y\": "), "{error}");
        assert!(error.contains(sentence), "{error}");
        assert!(!error.contains('\n'), "{error:?}");
    }
    for case in [
        "steps = [{ do = 'read', attribute = 'version', value = '1', expect = 'mismatch' }]",
        "steps = [{ do = 'expect', state = 'powered-off' }]",
        "faults = ['no-vmx']\nsteps = [{ do = 'bring-up', expect = 'no-vmx' }]",
    ] {
        let text = format!("name = 'x'\n[[case]]\nname = 'y'\n{case}");
        assert!(Scenario::parse("inline", &text).is_ok(), "{case}");
    }
}

#[test]
fn a_scenario_without_a_case_is_refused() {
    assert!(matches!(Scenario::parse("inline", "name = 'x'"), Err(ScenarioError::Empty(_))));
}

#[test]
fn steps_of_devices_are_read_with_all_their_keys() {
    let Step::Connect(connect) = step(
        "{ do = 'connect', device = '3b:00.0', tsm = 'tsm1', expect = 'device-refused', \
         during = { exchange = 3, what = 'update', update = { version = '2.1.01', expect = 'module-gone' } } }",
    )
    .unwrap() else {
        panic!("another step")
    };
    assert_eq!((connect.device.as_deref(), connect.tsm.as_deref()), (Some("3b:00.0"), Some("tsm1")));
    let during = connect.during.unwrap();
    assert_eq!((during.exchange, during.what), (3, DuringWhat::Update));
    assert_eq!(during.update.unwrap().expect.as_deref(), Some("module-gone"));
    assert_eq!(connect.expect.as_deref(), Some("device-refused"));
    for (name, what) in [
        ("remove", DuringWhat::Remove),
        ("dead-mailbox", DuringWhat::DeadMailbox),
        ("link-reset", DuringWhat::LinkReset),
        ("power-loss", DuringWhat::PowerLoss),
    ] {
        let text =
            format!("{{ do = 'connect', device = '3b:00.0', during = {{ exchange = 0, what = '{name}' }} }}");
        assert!(matches!(
            step(&text).unwrap(),
            Step::Connect(step) if step.during.as_ref().is_some_and(|during| during.what == what)
        ));
    }
    let Step::DeviceFaults { faults, .. } =
        step("{ do = 'device-faults', device = '3b:00.0', faults = ['wrong-slot', { silent = { at = 'FINISH' } }] }")
            .unwrap()
    else {
        panic!("another step")
    };
    assert_eq!(faults.iter().map(DeviceFault::name).collect::<Vec<_>>(), ["wrong-slot", "silent"]);
    for (name, what) in [
        ("session", RefreshName::Session),
        ("stream", RefreshName::Stream),
        ("evidence", RefreshName::Evidence),
    ] {
        let refresh = step(&format!("{{ do = 'refresh', device = '3b:00.0', what = '{name}' }}")).unwrap();
        assert!(matches!(refresh, Step::Refresh { what: found, .. } if found == what));
    }
    for (name, how) in [
        ("drop", Tampering::Drop),
        ("replay", Tampering::Replay),
        ("reorder", Tampering::Reorder),
        ("flip", Tampering::Flip),
    ] {
        let tamper = step(&format!("{{ do = 'tamper', device = '3b:00.0', how = '{name}' }}")).unwrap();
        assert!(matches!(tamper, Step::Tamper { how: found, .. } if found == how));
    }
    for text in [
        "{ do = 'connect' }",
        "{ do = 'connect-together', devices = ['3b:00.0', '3c:00.0'], outcomes = ['ok', 'already-connected'] }",
        "{ do = 'disconnect' }",
        "{ do = 'disconnect', device = '3b:00.0', tsm = 'tsm1', expect = 'other-tsm' }",
        "{ do = 'connect-faulty', device = '3b:00.0', faults = ['wrong-slot'], expect = 'device-refused' }",
        "{ do = 'connect-faulty', device = '3b:00.0', faults = [], again = true, refresh = 'evidence' }",
        "{ do = 'connect-interrupted', device = '3b:00.0', what = 'remove', exchanges = 9, expect = 'device-gone-away' }",
        "{ do = 'unplug', device = '3b:00.0' }",
        "{ do = 'plug', device = '3b:00.0' }",
        "{ do = 'traffic', device = '3b:00.0', packets = 3, protected = true, expect = 'traffic-lost' }",
        "{ do = 'pass-time', seconds = 3600 }",
        "{ do = 'key-refresh', seconds = 3600 }",
        "{ do = 'key-refresh' }",
        "{ do = 'bring-up', disable = ['TDX_CONNECT'] }",
        "{ do = 'expect', connect = 'on', tsm = '', connected = [], secure = [], connected-count = 0, \
         available-streams = 8, key-refreshes = 0, module-sessions = 0, module-streams = 0 }",
    ] {
        assert!(step(text).is_ok(), "{text}");
    }
}

#[test]
fn steps_of_devices_refuse_what_they_do_not_know_by_its_name() {
    for (text, words) in [
        ("{ do = 'connect', device = '3b:00.0', speed = 1 }", &["unknown field `speed`"][..]),
        (
            "{ do = 'connect', device = '3b:00.0', expect = 'device-refuse' }",
            &["did you mean `device-refused`?"],
        ),
        ("{ do = 'connect', during = { what = 'remove' } }", &["missing field `exchange`"]),
        ("{ do = 'connect', during = { exchange = 1, what = 'lunch' } }", &["`lunch`", "`power-loss`"]),
        (
            "{ do = 'connect', during = { exchange = 1, what = 'update', update = { version = '1.5.34', \
             expect = 'moduel-gone' } } }",
            &["did you mean `module-gone`?"],
        ),
        (
            "{ do = 'connect-together', devices = [], outcomes = ['no-stream-on-brige'] }",
            &["did you mean `no-stream-on-bridge`?"],
        ),
        ("{ do = 'refresh', device = '3b:00.0', what = 'mind' }", &["`mind`", "`evidence`"]),
        ("{ do = 'refresh', what = 'stream' }", &["missing field `device`"]),
        ("{ do = 'device-faults', device = '3b:00.0', faults = ['wrong-solt'] }", &["`wrong-solt`"]),
        ("{ do = 'device-faults', device = '3b:00.0', faults = [{ silent = {} }] }", &["missing field `at`"]),
        ("{ do = 'connect-faulty', device = '3b:00.0' }", &["missing field `faults`"]),
        ("{ do = 'connect-faulty', device = '3b:00.0', faults = [], refresh = 'mind' }", &["`mind`"]),
        ("{ do = 'connect-interrupted', device = '3b:00.0', what = 'lunch', exchanges = 1 }", &["`lunch`"]),
        (
            "{ do = 'connect-interrupted', device = '3b:00.0', what = 'update' }",
            &["missing field `exchanges`"],
        ),
        ("{ do = 'tamper', device = '3b:00.0', how = 'gently' }", &["`gently`", "`replay`"]),
        ("{ do = 'traffic', device = '3b:00.0' }", &["missing field `packets`"]),
        ("{ do = 'pass-time' }", &["missing field `seconds`"]),
        ("{ do = 'unplug' }", &["missing field `device`"]),
        ("{ do = 'expect', conected = [] }", &["unknown field `conected`"]),
    ] {
        let error = step(text).unwrap_err().to_string();
        assert!(words.iter().all(|word| error.contains(word)), "{text}: {error}");
        assert!(!error.contains('\n'), "{error:?}");
    }
}
