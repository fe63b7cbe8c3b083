//go:build tools

// Package tools keeps in go.mod and go.sum what `cargo xtask setup --cluster` builds.
package tools

import (
	_ "k8s.io/kubernetes/cmd/kube-apiserver"
	_ "k8s.io/kubernetes/cmd/kubectl"
)
