//! `ferro net` in network namespaces of the tests' own: nothing of the host's networks is touched. Needs root.

mod support;

use std::process::Command;

use serde_json::Value;
use support::{Namespace, output};

const FERRO: &str = env!("CARGO_BIN_EXE_ferro");

/// Runs `ferro net` inside, which must succeed, and returns what it printed.
fn net(namespace: &Namespace, line: &str) -> String {
    output(&mut command(namespace, line))
}

fn command(namespace: &Namespace, line: &str) -> Command {
    let mut command = namespace.command(FERRO);
    command.arg("net").args(line.split(' '));
    command
}

/// Runs `ferro net` inside, which must fail, and returns what it complained of.
fn refused(namespace: &Namespace, line: &str) -> String {
    let output = command(namespace, line).output().expect("ip is there");
    assert_eq!(output.status.code(), Some(1), "{line}: {}", String::from_utf8_lossy(&output.stdout));
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// All that a network namespace has of interfaces, addresses, routes, firewall rules and the switch for forwarding, but
/// what settles by itself after a change: carriers, and addresses that IPv6 makes up.
fn picture(namespace: &Namespace) -> String {
    let mut shown = String::new();
    for arguments in [["-j", "address", "show"].as_slice(), &["-4", "-j", "route", "show", "table", "all"]] {
        let mut told: Value = serde_json::from_str(&output(namespace.command("ip").args(arguments))).unwrap();
        settle(&mut told);
        shown += &told.to_string();
    }
    if support::has("nft") {
        shown += &output(namespace.command("nft").args(["list", "ruleset"]));
    }
    shown + &output(namespace.command("cat").arg("/proc/sys/net/ipv4/ip_forward"))
}

fn settle(told: &mut Value) {
    match told {
        Value::Array(list) => {
            list.retain(|item| item["family"] != "inet6");
            list.iter_mut().for_each(settle);
        }
        Value::Object(fields) => {
            fields.retain(|name, _| name != "operstate");
            if let Some(Value::Array(flags)) = fields.get_mut("flags") {
                flags.retain(|flag| flag == "UP");
            }
            fields.values_mut().for_each(settle);
        }
        _ => {}
    }
}

#[test]
fn a_network_is_made_step_by_step_and_taken_apart_again() {
    let Some(namespace) = Namespace::new("steps") else { return };
    let before = picture(&namespace);
    let steps = [
        ("bridge add br0 --address 10.77.77.1/24", "added", "already there"),
        ("tap add tap0 --bridge br0 --owner nobody", "added", "already there"),
        ("route add 10.88.0.0/16 --via 10.77.77.2", "added", "already there"),
        ("forward on", "switched on", "already on"),
    ];
    for (step, first, again) in steps {
        assert!(net(&namespace, step).contains(first), "{step}");
        assert!(net(&namespace, step).contains(again), "{step}");
    }
    // The address has brought this route along already.
    assert!(net(&namespace, "route add 10.77.77.0/24 --dev br0").contains("already there"));

    // The kernel's own tools see the same.
    let seen = output(namespace.command("ip").args(["-d", "link", "show", "tap0"]));
    assert!(seen.contains("master br0") && seen.contains("persist on") && seen.contains("user nobody"), "{seen}");
    let seen = output(namespace.command("ip").args(["route"]));
    assert!(seen.contains("10.88.0.0/16 via 10.77.77.2 dev br0"), "{seen}");
    let bridges: Value = serde_json::from_str(&net(&namespace, "bridge list --output json")).unwrap();
    assert_eq!(bridges[0]["name"], "br0");
    assert_eq!(bridges[0]["addresses"][0], "10.77.77.1/24");
    assert_eq!(bridges[0]["ports"][0], "tap0");
    assert!(net(&namespace, "tap list").contains("tap0"));
    assert!(net(&namespace, "route list").contains("10.88.0.0/16   10.77.77.2  br0"));

    let complaint = refused(&namespace, "bridge delete br0");
    assert!(complaint.contains("br0 still has tap0"), "{complaint}");
    let steps = [
        ("forward off", "switched off", "already off"),
        ("route delete 10.88.0.0/16", "deleted", "already gone"),
        ("tap delete tap0", "deleted", "already gone"),
        ("bridge delete br0", "deleted", "already gone"),
    ];
    for (step, first, again) in steps {
        assert!(net(&namespace, step).contains(first), "{step}");
        assert!(net(&namespace, step).contains(again), "{step}");
    }
    assert_eq!(picture(&namespace), before);
}

#[test]
fn what_is_in_the_way_is_said_and_nothing_is_half_done() {
    let Some(namespace) = Namespace::new("inway") else { return };
    net(&namespace, "bridge add br0 --address 10.77.77.1/24");
    net(&namespace, "bridge add br1");
    net(&namespace, "tap add tap0 --bridge br0");
    net(&namespace, "route add 10.88.0.0/16 --via 10.77.77.2");
    let before = picture(&namespace);
    for (line, words) in [
        ("bridge add tap0", "tap0 is a TAP interface, not a bridge"),
        ("bridge delete lo", "lo is a physical interface, not a bridge"),
        ("tap add br0", "br0 is a bridge, not a TAP interface"),
        ("tap delete br0", "br0 is a bridge, not a TAP interface"),
        ("tap add tap0 --bridge br1", "tap0 is plugged into br0"),
        ("tap add tap0 --owner nobody", "tap0 belongs to user nobody in particular"),
        ("tap add tap1 --bridge missing", "there is no interface missing"),
        ("tap add tap1 --owner no-such-user", "there is no user no-such-user"),
        ("tap add a-name-that-is-too-long", "can't be the name of an interface"),
        ("route add 10.88.0.0/16 --dev br0", "already routed via 10.77.77.2 dev br0"),
        ("route add 10.89.0.0/16 --via 192.168.1.1", "cannot add the route to 10.89.0.0/16"),
        ("route add 10.89.0.0/16 --dev missing", "there is no interface missing"),
        ("route add 10.89.0.0/16", "needs an interface"),
    ] {
        let complaint = refused(&namespace, line);
        assert!(complaint.contains(words), "{line}: {complaint}");
    }
    // Nobody without the right changes anything.
    for line in ["bridge add br2", "tap add tap1", "forward on", "route delete 10.88.0.0/16"] {
        let mut command = namespace.command("setpriv");
        command.args(["--reuid", "65534", "--clear-groups", FERRO, "net"]).args(line.split(' '));
        let output = command.output().expect("ip is there");
        let complaint = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success() && complaint.contains("it takes root"), "{line}: {complaint}");
    }
    assert_eq!(picture(&namespace), before);
}
