//! What `query-qmp-schema` tells: the commands with their arguments, and the events, in QAPI's introspection format (QEMU's
//! qapi/introspect.json). Results are told as values of any type.

use serde_json::{Value, json};

use super::json::EVENTS;
use super::table::{COMMANDS, Type};

/// The whole schema.
pub(super) fn schema() -> Value {
    let mut entities = vec![
        json!({ "name": "str", "meta-type": "builtin", "json-type": "string" }),
        json!({ "name": "int", "meta-type": "builtin", "json-type": "int" }),
        json!({ "name": "bool", "meta-type": "builtin", "json-type": "boolean" }),
        json!({ "name": "any", "meta-type": "builtin", "json-type": "value" }),
        json!({ "name": "[str]", "meta-type": "array", "element-type": "str" }),
        json!({ "name": "[any]", "meta-type": "array", "element-type": "any" }),
        json!({ "name": "nothing", "meta-type": "object", "members": [] }),
    ];
    for command in COMMANDS {
        let members: Vec<_> = command
            .args
            .iter()
            .map(|arg| {
                let mut member = json!({ "name": arg.name, "type": type_name(arg.kind) });
                if arg.optional {
                    member["default"] = Value::Null;
                }
                member
            })
            .collect();
        let arguments = format!("{}-arg", command.name);
        entities.push(json!({ "name": arguments, "meta-type": "object", "members": members }));
        entities
            .push(json!({ "name": command.name, "meta-type": "command", "arg-type": arguments, "ret-type": "any" }));
    }
    entities.extend(EVENTS.iter().map(|name| json!({ "name": name, "meta-type": "event", "arg-type": "any" })));
    Value::Array(entities)
}

fn type_name(kind: Type) -> &'static str {
    match kind {
        Type::Text => "str",
        Type::Integer => "int",
        Type::Truth => "bool",
        Type::Keys => "[any]",
        Type::Texts => "[str]",
    }
}
