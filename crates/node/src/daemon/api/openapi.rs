//! The OpenAPI document (version 3.1, whose schemas are JSON Schema 2020-12), made from the table of routes and the types in
//! it. Nothing in it is written by hand but what no type says.

use schemars::SchemaGenerator;
use schemars::generate::SchemaSettings;
use serde_json::{Map, Value, json};

use super::route::{Route, part};

/// Where schemas are in the document.
const SCHEMAS: &str = "/components/schemas";

/// The document of a table of routes.
pub(super) fn document(table: &[Route]) -> Value {
    let settings = SchemaSettings::draft2020_12().with(|settings| {
        settings.definitions_path = SCHEMAS.into();
        settings.meta_schema = None;
    });
    let (mut taken, mut given) =
        (settings.clone().for_deserialize().into_generator(), settings.for_serialize().into_generator());
    let mut paths: Map<String, Value> = Map::new();
    for route in table {
        let path = paths.entry(route.path).or_insert_with(|| json!({}));
        path[route.method.name()] = operation(route, &mut taken, &mut given);
    }
    let mut schemas = taken.take_definitions(true);
    schemas.append(&mut given.take_definitions(true));
    let error = json!({
        "type": "object", "required": ["error"],
        "properties": { "error": { "type": "string", "description": "Why, for people." } },
    });
    schemas.insert("Error".into(), error);
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "Ferro node",
            "version": env!("CARGO_PKG_VERSION"),
            "description": "What a node's daemon can be asked, on its unix socket without, over TCP with a token.",
            "license": { "name": "MIT OR Apache-2.0", "identifier": "MIT OR Apache-2.0" },
        },
        "servers": [{ "url": "/" }],
        "security": [{ "token": [] }],
        "paths": paths,
        "components": {
            "schemas": schemas,
            "responses": {
                "Refused": {
                    "description": "It isn't done.",
                    "content": { "application/json": { "schema": { "$ref": "#/components/schemas/Error" } } },
                },
            },
            "securitySchemes": {
                "token": {
                    "type": "http", "scheme": "bearer",
                    "description": "What token-file in node.toml's [api] holds. The unix socket needs none.",
                },
            },
        },
    })
}

fn operation(route: &Route, taken: &mut SchemaGenerator, given: &mut SchemaGenerator) -> Value {
    let mut operation = json!({
        "operationId": route.name,
        "summary": route.summary,
        "responses": {
            "200": { "description": "Done.", "content": { route.media: { "schema": (route.answer)(given) } } },
            "default": { "$ref": "#/components/responses/Refused" },
        },
    });
    let parameters: Vec<Value> = parameters(route, taken);
    if !parameters.is_empty() {
        operation["parameters"] = parameters.into();
    }
    if let Some(body) = route.body {
        operation["requestBody"] = json!({ "content": { "application/json": { "schema": body(taken) } } });
    }
    if route.open {
        operation["security"] = json!([]);
    }
    operation
}

/// The names in the path, from the properties of the type that they become.
fn parameters(route: &Route, generator: &mut SchemaGenerator) -> Vec<Value> {
    let schema = (route.parameters)(generator);
    let properties = part(&schema, "properties").and_then(Value::as_object).cloned().unwrap_or_default();
    let parameter = |(name, mut schema): (String, Value)| {
        let description = schema.as_object_mut().and_then(|schema| schema.remove("description"));
        let description = description.unwrap_or_default();
        json!({ "name": name, "in": "path", "required": true, "description": description, "schema": schema })
    };
    properties.into_iter().map(parameter).collect()
}
