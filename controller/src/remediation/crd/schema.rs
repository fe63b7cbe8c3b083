//! Schemas that the derive cannot make: Kubernetes' own types with their `x-kubernetes` marks.

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::{
    CustomResourceDefinition, JSONSchemaProps, JSONSchemaPropsOrArray,
};
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};

use super::{Attempts, UnhealthyCondition, UnhealthyNode, WaitingNode};

pub(super) fn integer(_: &mut SchemaGenerator) -> Schema {
    json_schema!({ "type": "integer" })
}

pub(super) fn time(_: &mut SchemaGenerator) -> Schema {
    json_schema!({ "type": "string", "format": "date-time" })
}

/// A number or a percentage. The pattern is asked of text only.
pub(super) fn amount(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "anyOf": [{ "type": "integer" }, { "type": "string" }],
        "pattern": "^((100|[0-9]{1,2})%|[0-9]+)$",
        "x-kubernetes-int-or-string": true,
    })
}

pub(super) fn object_reference(_: &mut SchemaGenerator) -> Schema {
    let text = || json_schema!({ "type": "string" });
    json_schema!({
        "type": "object",
        "properties": {
            "apiVersion": text(), "fieldPath": text(), "kind": text(), "name": text(),
            "namespace": text(), "resourceVersion": text(), "uid": text(),
        },
        "x-kubernetes-map-type": "atomic",
    })
}

pub(super) fn selector(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "object",
        "properties": {
            "matchExpressions": {
                "type": "array",
                "items": {
                    "type": "object",
                    "properties": {
                        "key": { "type": "string" },
                        "operator": { "type": "string" },
                        "values": {
                            "type": "array",
                            "items": { "type": "string" },
                            "x-kubernetes-list-type": "atomic",
                        },
                    },
                    "required": ["key", "operator"],
                },
                "x-kubernetes-list-type": "atomic",
            },
            "matchLabels": { "type": "object", "additionalProperties": { "type": "string" } },
        },
        "x-kubernetes-map-type": "atomic",
    })
}

pub(super) fn unhealthy_conditions(generator: &mut SchemaGenerator) -> Schema {
    let mut schema = list_map::<UnhealthyCondition>(generator, &["type", "status"]);
    schema.insert(
        "default".into(),
        serde_json::json!([
            { "type": "Ready", "status": "False", "duration": "300s" },
            { "type": "Ready", "status": "Unknown", "duration": "300s" },
        ]),
    );
    schema
}

pub(super) fn unhealthy_nodes(generator: &mut SchemaGenerator) -> Schema {
    list_map::<UnhealthyNode>(generator, &["name"])
}

pub(super) fn waiting_nodes(generator: &mut SchemaGenerator) -> Schema {
    list_map::<WaitingNode>(generator, &["name"])
}

pub(super) fn attempts(generator: &mut SchemaGenerator) -> Schema {
    list_map::<Attempts>(generator, &["name"])
}

/// A list whose items are told apart by `keys`.
fn list_map<T: JsonSchema>(generator: &mut SchemaGenerator, keys: &[&str]) -> Schema {
    json_schema!({
        "type": "array",
        "items": generator.subschema_for::<T>(),
        "x-kubernetes-list-map-keys": keys,
        "x-kubernetes-list-type": "map",
    })
}

/// `metav1.Condition`, with the limits that the API's own type has.
pub(super) fn conditions(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "array",
        "items": {
            "type": "object",
            "properties": {
                "lastTransitionTime": { "type": "string", "format": "date-time" },
                "message": { "type": "string", "maxLength": 32768 },
                "observedGeneration": { "type": "integer", "format": "int64", "minimum": 0 },
                "reason": {
                    "type": "string",
                    "maxLength": 1024,
                    "minLength": 1,
                    "pattern": "^[A-Za-z]([A-Za-z0-9_,:]*[A-Za-z0-9_])?$",
                },
                "status": { "type": "string", "enum": ["True", "False", "Unknown"] },
                "type": {
                    "type": "string",
                    "maxLength": 316,
                    "pattern": "^([a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*/)?(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])$",
                },
            },
            "required": ["lastTransitionTime", "message", "reason", "status", "type"],
        },
        "x-kubernetes-list-map-keys": ["type"],
        "x-kubernetes-list-type": "map",
    })
}

/// The definition as the reference has it: what the derive adds or leaves out is put right.
///
/// That is `nullable` on every optional field, a `title`, a required `spec`, `anyOf` of a number or text without
/// the types, and the three fields of every object, which clients like to see.
pub(super) fn as_reference(mut definition: CustomResourceDefinition) -> CustomResourceDefinition {
    for version in &mut definition.spec.versions {
        if let Some(schema) = version.schema.as_mut().and_then(|s| s.open_api_v3_schema.as_mut()) {
            schema.required = None;
            schema.title = None;
            let properties = schema.properties.get_or_insert_default();
            for (name, kind) in
                [("apiVersion", "string"), ("kind", "string"), ("metadata", "object")]
            {
                properties.insert(name.to_owned(), of_type(kind));
            }
            put_right(schema);
        }
    }
    definition
}

fn of_type(kind: &str) -> JSONSchemaProps {
    JSONSchemaProps { type_: Some(kind.to_owned()), ..JSONSchemaProps::default() }
}

fn put_right(schema: &mut JSONSchemaProps) {
    schema.nullable = None;
    if schema.x_kubernetes_int_or_string == Some(true) {
        schema.any_of = Some(vec![of_type("integer"), of_type("string")]);
    }
    for property in schema.properties.iter_mut().flat_map(|properties| properties.values_mut()) {
        put_right(property);
    }
    if let Some(JSONSchemaPropsOrArray::Schema(items)) = &mut schema.items {
        put_right(items);
    }
}
