//! Feature gates: what `--feature-gates=A=true,B=false` and the boolean flags of old say.
//!
//! A gate is given by `--feature-gates` or by its flag of 3.5, not by both. `AllAlpha` and `AllBeta` switch every gate of that
//! stage that is not named itself.

use super::config::Lookup;
use super::go;

/// How settled etcd considers a feature.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stage {
    Alpha,
    Beta,
}

/// Whether this program does what the gate asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Effect {
    /// It does.
    Served,
    /// Nothing that can be observed depends on it: both values are right.
    None,
    /// It is refused when turned on.
    Refused,
}

/// One gate.
#[derive(Debug)]
pub(super) struct Gate {
    pub(super) name: &'static str,
    pub(super) default: bool,
    pub(super) stage: Stage,
    /// The flag of 3.5 and 3.6 that it replaces.
    flag: Option<&'static str>,
    effect: Effect,
}

const fn gate(
    name: &'static str,
    default: bool,
    stage: Stage,
    flag: Option<&'static str>,
    effect: Effect,
) -> Gate {
    Gate { name, default, stage, flag, effect }
}

/// The gates of 3.6 and 3.7.
pub(super) const GATES: &[Gate] = &[
    gate(
        "CompactHashCheck",
        false,
        Stage::Alpha,
        Some("experimental-compact-hash-check-enabled"),
        Effect::Served,
    ),
    // A keep-alive never waits for what is applied here.
    gate("FastLeaseKeepAlive", true, Stage::Beta, None, Effect::None),
    gate(
        "InitialCorruptCheck",
        false,
        Stage::Alpha,
        Some("experimental-initial-corrupt-check"),
        Effect::Served,
    ),
    gate(
        "LeaseCheckpoint",
        false,
        Stage::Alpha,
        Some("experimental-enable-lease-checkpoint"),
        Effect::Served,
    ),
    gate(
        "LeaseCheckpointPersist",
        false,
        Stage::Alpha,
        Some("experimental-enable-lease-checkpoint-persist"),
        Effect::Served,
    ),
    gate("PriorityRequest", false, Stage::Alpha, None, Effect::Refused),
    gate("SetMemberLocalAddr", false, Stage::Alpha, None, Effect::Refused),
    gate(
        "StopGRPCServiceOnDefrag",
        false,
        Stage::Alpha,
        Some("experimental-stop-grpc-service-on-defrag"),
        Effect::Refused,
    ),
    // Checks of a transaction read from a view that writers do not touch.
    gate(
        "TxnModeWriteWithSharedBuffer",
        true,
        Stage::Beta,
        Some("experimental-txn-mode-write-with-shared-buffer"),
        Effect::None,
    ),
];

/// The gates' values.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Gates(Vec<(&'static str, bool)>);

impl Gates {
    /// Whether the gate of that name is on.
    pub(super) fn is_on(&self, name: &str) -> bool {
        self.0.iter().any(|(known, on)| *known == name && *on)
    }

    /// `A=true,B=false`, with every gate.
    pub(super) fn summary(&self) -> String {
        self.0.iter().map(|(name, on)| format!("{name}={on}")).collect::<Vec<_>>().join(",")
    }

    /// Reads what was given.
    ///
    /// # Errors
    /// etcd's texts; or that a gate asks for what is not there.
    pub(super) fn of(get: &Lookup<'_>) -> Result<Self, String> {
        let text = get.text("feature-gates");
        let given = parse(&text)?;
        let named = |name: &str| given.iter().rev().find(|(known, _)| known == name).map(|g| g.1);
        let bulk = |stage: Stage| match stage {
            Stage::Alpha => named("AllAlpha"),
            Stage::Beta => named("AllBeta"),
        };
        let mut values = Vec::with_capacity(GATES.len());
        for gate in GATES {
            let from_flag = match gate.flag.filter(|flag| get.is_given(flag)) {
                Some(flag) => {
                    let value = get.boolean(flag)?;
                    if let Some(own) = named(gate.name) {
                        let name = gate.name;
                        return Err(format!(
                            "cannot specify both flags: --{flag}={value} and --feature-gates={name}={own} at the same time, \
                             please just use --feature-gates={name}={own}"
                        ));
                    }
                    Some(value)
                }
                None => None,
            };
            let on = from_flag
                .or_else(|| named(gate.name))
                .or_else(|| bulk(gate.stage))
                .unwrap_or(gate.default);
            // A gate that a bulk switch turned on was not asked for by name: it stays off, as in a version without it.
            let is_asked_for = from_flag.or_else(|| named(gate.name)) == Some(true);
            if gate.effect == Effect::Refused && on {
                if is_asked_for {
                    return Err(format!(
                        "the feature gate {} is not served by retcd yet; only {}=false is accepted",
                        gate.name, gate.name
                    ));
                }
                values.push((gate.name, false));
            } else {
                values.push((gate.name, on));
            }
        }
        let gates = Self(values);
        if gates.is_on("LeaseCheckpointPersist") && !gates.is_on("LeaseCheckpoint") {
            return Err(
                match get.is_given("experimental-enable-lease-checkpoint-persist") {
                    true => "setting experimental-enable-lease-checkpoint-persist requires experimental-enable-lease-checkpoint",
                    false => "enabling feature gate LeaseCheckpointPersist requires enabling feature gate LeaseCheckpoint",
                }
                .to_owned(),
            );
        }
        Ok(gates)
    }
}

/// Reads `A=true,B=false`.
fn parse(text: &str) -> Result<Vec<(String, bool)>, String> {
    let mut given = Vec::new();
    for item in text.split(',').filter(|item| !item.is_empty()) {
        let Some((name, value)) = item.split_once('=') else {
            return Err(format!("missing bool value for {}", item.trim()));
        };
        let (name, value) = (name.trim(), value.trim());
        let value = go::boolean(value).ok_or_else(|| {
            format!(
                "invalid value of {name}={value}, err: strconv.ParseBool: parsing {value:?}: invalid syntax"
            )
        })?;
        let is_known =
            matches!(name, "AllAlpha" | "AllBeta") || GATES.iter().any(|gate| gate.name == name);
        if !is_known {
            return Err(format!("unrecognized feature gate: {name}"));
        }
        given.push((name.to_owned(), value));
    }
    Ok(given)
}

/// The gate that a flag of old stands for.
pub(super) fn of_flag(flag: &str) -> Option<&'static str> {
    GATES.iter().find(|gate| gate.flag == Some(flag)).map(|gate| gate.name)
}
