//go:build tools

// Package tools keeps in go.mod and go.sum what `cargo xtask setup --cluster` builds.
package tools

import _ "go.etcd.io/etcd/server/v3"
