//! The flags about log lines.

use super::config::Lookup;
use crate::log::{Format, Level, Output, Rotation, Settings};

/// Reads them.
///
/// # Errors
/// etcd's texts.
pub(super) fn build(get: &Lookup<'_>) -> Result<Settings, String> {
    match get.text("logger").as_str() {
        "zap" => {}
        "capnslog" => return Err("--logger=capnslog is removed in v3.5".to_owned()),
        other => return Err(format!("unknown logger option {other:?}")),
    }
    let text = get.text("log-outputs");
    if get.is_given("log-outputs") && text.split(',').any(str::is_empty) {
        return Err("open sink \"\": open : no such file or directory".to_owned());
    }
    let mut names = Vec::new();
    for name in get.list("log-outputs") {
        if !names.contains(&name) {
            names.push(name);
        }
    }
    if names.is_empty() {
        names.push("default".to_owned());
    }
    if names.len() > 1 && names.iter().any(|name| name == "default") {
        return Err("multi logoutput for \"default\" is not supported yet".to_owned());
    }
    let outputs: Vec<Output> = names.iter().map(|name| output(name)).collect();
    let rotation = match get.boolean("enable-log-rotation")? {
        true => Some(rotation(&outputs, &get.text("log-rotation-config-json"))?),
        false => None,
    };
    if outputs.contains(&Output::Journal) && outputs.len() > 1 {
        let quoted: Vec<String> = names.iter().map(|name| format!("{name:?}")).collect();
        return Err(format!(
            "running with systemd/journal but other '--log-outputs' values ([{}]) are configured with 'default'; override \
             'default' value with something else",
            quoted.join(" ")
        ));
    }
    let level = get.text("log-level");
    let level = Level::parse(&level).ok_or_else(|| {
        format!(
            "unknown log level {level:?}; it is one of debug, info, warn, error, dpanic, panic, fatal"
        )
    })?;
    let format = match get.text("log-format").as_str() {
        "json" | "" => Format::Json,
        "console" => Format::Console,
        other => {
            return Err(format!("unknown log format: {other}, supported values json, console"));
        }
    };
    Ok(Settings { level, format, outputs, rotation })
}

fn output(name: &str) -> Output {
    match name {
        "default" | "stderr" => Output::Stderr,
        "stdout" => Output::Stdout,
        "systemd/journal" => Output::Journal,
        path => Output::File(path.into()),
    }
}

/// Reads `{"maxsize": 100, …}`; a key that is not there has its default.
fn rotation(outputs: &[Output], json: &str) -> Result<Rotation, String> {
    let files = outputs.iter().filter(|output| matches!(output, Output::File(_))).count();
    if files != 1 {
        return Err(
            "--log-outputs requires a single file path when --log-rotate-config-json is defined"
                .to_owned(),
        );
    }
    serde_json::from_str(json).map_err(|error| match error.classify() {
        serde_json::error::Category::Data => format!("invalid log rotation config: {error}"),
        serde_json::error::Category::Io
        | serde_json::error::Category::Syntax
        | serde_json::error::Category::Eof => {
            format!("improperly formatted log rotation config: {error}")
        }
    })
}
