//! Feature gates: what `--feature-gates=A=true,B=false` and the boolean flags of old say.
//!
//! A gate is given by `--feature-gates` or by its flag of 3.5, not by both. `AllAlpha` and `AllBeta` switch every gate of that
//! stage that is not named itself.

use server::config::Feature;
use server::version::Version;

use super::config::Lookup;
use super::go;

/// How settled etcd considers a feature.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stage {
    Alpha,
    Beta,
}

impl Stage {
    /// etcd's name of it.
    const fn name(self) -> &'static str {
        match self {
            Self::Alpha => "ALPHA",
            Self::Beta => "BETA",
        }
    }
}

/// One gate.
#[derive(Debug)]
pub(super) struct Gate {
    pub(super) name: &'static str,
    pub(super) default: bool,
    pub(super) stage: Stage,
    /// The flag of 3.5 and 3.6 that it replaces.
    flag: Option<&'static str>,
}

const fn gate(name: &'static str, default: bool, stage: Stage, flag: Option<&'static str>) -> Gate {
    Gate { name, default, stage, flag }
}

/// The gates of 3.6 and 3.7.
pub(super) const GATES: &[Gate] = &[
    gate("CompactHashCheck", false, Stage::Alpha, Some("experimental-compact-hash-check-enabled")),
    // Both are right: it says only whether the renewal of a lease that is there waits for others to be applied.
    gate("FastLeaseKeepAlive", true, Stage::Beta, None),
    gate("InitialCorruptCheck", false, Stage::Alpha, Some("experimental-initial-corrupt-check")),
    gate("LeaseCheckpoint", false, Stage::Alpha, Some("experimental-enable-lease-checkpoint")),
    gate(
        "LeaseCheckpointPersist",
        false,
        Stage::Alpha,
        Some("experimental-enable-lease-checkpoint-persist"),
    ),
    gate("PriorityRequest", false, Stage::Alpha, None),
    gate("SetMemberLocalAddr", false, Stage::Alpha, None),
    gate(
        "StopGRPCServiceOnDefrag",
        false,
        Stage::Alpha,
        Some("experimental-stop-grpc-service-on-defrag"),
    ),
    // Nothing depends on it: checks of a transaction read from a view that writers do not touch.
    gate(
        "TxnModeWriteWithSharedBuffer",
        true,
        Stage::Beta,
        Some("experimental-txn-mode-write-with-shared-buffer"),
    ),
];

/// The gates that came with 3.7. To 3.5 all are unknown, whose flags are taken by every version.
const SINCE_7: &[&str] = &["FastLeaseKeepAlive", "PriorityRequest"];

/// The gates' values.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Gates(Vec<Feature>);

impl Gates {
    /// Whether the gate of that name is on.
    pub(super) fn is_on(&self, name: &str) -> bool {
        self.0.iter().any(|feature| feature.name == name && feature.is_on)
    }

    /// All of them, the switches of whole stages included, by name.
    pub(super) fn into_features(self) -> Vec<Feature> {
        self.0
    }

    /// Reads what was given.
    ///
    /// # Errors
    /// etcd's texts.
    pub(super) fn of(get: &Lookup<'_>) -> Result<Self, String> {
        let text = get.text("feature-gates");
        let given = parse(&text)?;
        let named = |name: &str| given.iter().rev().find(|(known, _)| known == name).map(|g| g.1);
        let bulk = |stage: Stage| match stage {
            Stage::Alpha => named("AllAlpha"),
            Stage::Beta => named("AllBeta"),
        };
        let mut features: Vec<Feature> = [Stage::Alpha, Stage::Beta]
            .into_iter()
            .map(|stage| Feature {
                name: match stage {
                    Stage::Alpha => "AllAlpha",
                    Stage::Beta => "AllBeta",
                },
                stage: stage.name(),
                is_on: bulk(stage).unwrap_or(false),
            })
            .collect();
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
            features.push(Feature { name: gate.name, stage: gate.stage.name(), is_on: on });
        }
        let gates = Self(features);
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

/// The first gate that a version of etcd does not know yet.
pub(super) fn unknown_to(version: Version, text: &str) -> Option<String> {
    let given = parse(text).ok()?;
    let is_later = |name: &String| version.minor == 6 && SINCE_7.contains(&name.as_str());
    given.into_iter().map(|(name, _)| name).find(is_later)
}

/// Reads `A=true,B=false`.
///
/// # Errors
/// etcd's texts.
pub(super) fn parse(text: &str) -> Result<Vec<(String, bool)>, String> {
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
