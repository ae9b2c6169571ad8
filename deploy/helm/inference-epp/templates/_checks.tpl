{{/* What the schema cannot say: values that do not go together. */}}
{{- define "epp.check" -}}
{{- $v := .Values }}
{{- $one := eq $v.mode "one-pool" }}
{{- if and $one (or (eq $v.pool.source "selector") $v.pool.create) (not $v.pool.matchLabels) }}
{{- fail "pool.matchLabels is empty: which pods are model servers? (Or pool.create: false, for an InferencePool that exists.)" }}
{{- end }}
{{- if and (eq $v.mode "standalone") (not $v.standalone.endpoints) (not $v.standalone.existingConfigMap) }}
{{- fail "mode standalone needs standalone.endpoints or standalone.existingConfigMap" }}
{{- end }}
{{- if and $v.leaderElection (eq $v.mode "standalone") }}
{{- fail "leaderElection needs the Kubernetes API, which mode standalone does not use: run the replicas side by side" }}
{{- end }}
{{- if and $v.leaderElection $v.autoscaling.enabled }}
{{- fail "autoscaling with leaderElection would add pickers that only wait: choose one of them" }}
{{- end }}
{{- if and (has $v.gateway (list "gke" "envoy-gateway")) (not $one) }}
{{- fail (printf "gateway: %s is written for mode one-pool; with other modes set gateway: none and add its objects for each pool (deploy/gateways)" $v.gateway) }}
{{- end }}
{{- if and (eq $v.gateway "envoy") (eq $v.pool.failureMode "FailOpen") }}
{{- fail "gateway: envoy fails closed: pool.failureMode FailOpen needs a second cluster, as in deploy/envoy/standalone-fail-open.yaml" }}
{{- end }}
{{- if and (eq $v.gateway "gke") (ne $v.pool.source "inferencepool") }}
{{- fail "gateway: gke attaches its policies to an InferencePool: set pool.source to inferencepool" }}
{{- end }}
{{- if and (eq $v.gateway "envoy-gateway") (or (not $v.pool.matchLabels) (gt (len $v.pool.targetPorts) 1)) }}
{{- fail "gateway: envoy-gateway needs pool.matchLabels for the Service of the model servers, and one target port" }}
{{- end }}
{{- if and $v.httpRoute.enabled (not $one) }}
{{- fail "httpRoute is written for mode one-pool: with many pools write a route for each" }}
{{- end }}
{{- if and $v.httpRoute.enabled (eq $v.pool.source "selector") (ne $v.gateway "envoy-gateway") }}
{{- fail "httpRoute needs an InferencePool to name: set pool.source to inferencepool" }}
{{- end }}
{{- if $v.scaleModelServers.enabled }}
{{- if eq $v.mode "many-pools" }}
{{- fail "scaleModelServers is for one pool: with many, write a ScaledObject for each (docs/kubernetes.md)" }}
{{- end }}
{{- if not $v.scaleModelServers.target.name }}
{{- fail "scaleModelServers.target.name is empty: what shall be scaled?" }}
{{- end }}
{{- end }}
{{- end }}
