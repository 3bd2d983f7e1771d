//! Limits of VMs, held against each other: a noisy VM that is capped, and what its neighbour has of that.

mod support;

use std::time::Duration;

use support::Vm;

/// Processor time that a process has used, in ticks (proc(5)).
fn used(process: u32) -> u64 {
    let text = std::fs::read_to_string(format!("/proc/{process}/stat")).expect("it runs");
    let fields: Vec<&str> = text.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
    fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap()
}

/// A guest that does nothing but work.
fn noisy(limit: &[&str]) -> Option<Vm> {
    let kernel = support::guest("spin.elf")?;
    let mut command = support::ferro(&["run", "--accel", "soft", "--serial", "stdio", "--kernel"]);
    command.arg(kernel).args(limit);
    let mut vm = Vm::start(command);
    vm.expect("!");
    Some(vm)
}

/// How much of one processor each of these used meanwhile.
fn shares<const N: usize>(processes: [u32; N]) -> [f64; N] {
    const SPAN: Duration = Duration::from_secs(3);
    let before = processes.map(used);
    let begin = std::time::Instant::now();
    std::thread::sleep(SPAN);
    let after = processes.map(used);
    let ticks = begin.elapsed().as_secs_f64() * 100.0;
    std::array::from_fn(|at| (after[at] - before[at]) as f64 / ticks)
}

/// Binds all threads of a process to the first processor that this one may use.
fn bind(process: u32) -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let allowed = status.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:")).unwrap_or("0").trim();
    let first = allowed.split([',', '-']).next().unwrap_or("0");
    let mut command = std::process::Command::new("taskset");
    let bound = command.args(["-a", "-p", "-c", first, &process.to_string()]).output();
    let done = bound.is_ok_and(|output| output.status.success());
    if !done {
        println!("skipped: taskset can't bind processes here");
    }
    done
}

#[test]
fn the_capped_one_stays_capped_and_the_other_keeps_its_share() {
    let Some(capped) = noisy(&["--limit", "cpu=20%"]) else { return };
    let free = noisy(&[]).expect("the guest is there");
    if !bind(capped.id()) || !bind(free.id()) {
        return;
    }
    let [capped_got, free_got] = shares([capped.id(), free.id()]);
    println!("capped at 0.20: {capped_got:.2}, beside it: {free_got:.2}");
    // Others' work takes from both; none of it gives the capped one more.
    assert!(capped_got < 0.3, "{capped_got}");
    assert!(free_got > 1.5 * capped_got, "{free_got} beside {capped_got}");
}

#[test]
fn shares_divide_a_processor() {
    let Some(small) = noisy(&["--limit", "shares=20"]) else { return };
    let usual = noisy(&[]).expect("the guest is there");
    if !bind(small.id()) || !bind(usual.id()) {
        return;
    }
    let [small_got, usual_got] = shares([small.id(), usual.id()]);
    println!("20 shares: {small_got:.2}, 100 shares: {usual_got:.2}");
    assert!(usual_got > 2.0 * small_got, "{usual_got} beside {small_got}");
}

#[test]
fn a_limit_on_memory_leaves_room_above_the_guests() {
    let mut command = support::ferro(&["run", "--memory", "256M", "--limit", "memory=300M", "--kernel", "/dev/null"]);
    let output = command.output().unwrap();
    let complaint = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.code() == Some(2) && complaint.contains("128M above"), "{complaint}");
    let limit = ["--limit", "memory=400M,iops=10000,bps=100M,rate=1G"];
    let Some(vm) = Vm::boot("cloud-amd64", "quiet ferro.run=echo+FINE", &limit) else { return };
    let (status, printed) = vm.finish();
    assert!(status.success() && printed.contains("FINE"), "{printed}");
}
