{{- define "epp.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 63 | trimSuffix "-" }}
{{- end }}

{{- define "epp.fullname" -}}
{{- if .Values.fullnameOverride }}
{{- .Values.fullnameOverride | trunc 50 | trimSuffix "-" }}
{{- else if contains "epp" .Release.Name }}
{{- .Release.Name | trunc 50 | trimSuffix "-" }}
{{- else }}
{{- printf "%s-%s" .Release.Name (default "epp" .Values.nameOverride) | trunc 50 | trimSuffix "-" }}
{{- end }}
{{- end }}

{{- define "epp.pool" -}}
{{- if and (eq .Values.mode "one-pool") (eq .Values.pool.source "selector") }}
{{- include "epp.fullname" . }}
{{- else }}
{{- default (include "epp.fullname" .) .Values.pool.name }}
{{- end }}
{{- end }}

{{- define "epp.serviceAccount" -}}
{{- default (include "epp.fullname" .) .Values.serviceAccount.name }}
{{- end }}

{{- define "epp.matchLabels" -}}
app.kubernetes.io/name: {{ include "epp.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{/* Labels of every object; the component tells the picker, the gateway and the body-based router apart. */}}
{{- define "epp.labels" -}}
{{ include "epp.matchLabels" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
{{- with .Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{- define "epp.image" -}}
{{- if .Values.image.digest -}}
{{ .Values.image.repository }}@{{ .Values.image.digest }}
{{- else -}}
{{ .Values.image.repository }}:{{ default .Chart.AppVersion .Values.image.tag }}
{{- end }}
{{- end }}

{{/* "true" where the mode speaks to the Kubernetes API. */}}
{{- define "epp.api" -}}
{{- if ne .Values.mode "standalone" }}true{{ end }}
{{- end }}

{{- define "epp.sidecar" -}}
{{- if and (eq .Values.gateway "envoy") (eq .Values.envoy.placement "sidecar") }}true{{ end }}
{{- end }}

{{- define "epp.envoyDeployment" -}}
{{- if and (eq .Values.gateway "envoy") (eq .Values.envoy.placement "deployment") }}true{{ end }}
{{- end }}

{{/* "true" where the ext_proc port speaks TLS. */}}
{{- define "epp.tls" -}}
{{- if not .Values.tls.enabled }}
{{- else if include "epp.sidecar" . }}
{{- else if and (eq .Values.gateway "envoy") (not .Values.tls.certSecret) }}
{{- else }}true{{ end }}
{{- end }}

{{- define "epp.metricsAuth" -}}
{{- if and .Values.metrics.auth (or (include "epp.api" .) .Values.metrics.tokenSecret.name) }}true{{ end }}
{{- end }}

{{- define "epp.configMap" -}}
{{- if .Values.existingConfigMap }}{{ .Values.existingConfigMap }}
{{- else if .Values.config }}{{ include "epp.fullname" . }}-config
{{- end }}
{{- end }}

{{- define "epp.endpointsMap" -}}
{{- if .Values.standalone.existingConfigMap }}{{ .Values.standalone.existingConfigMap }}
{{- else }}{{ include "epp.fullname" . }}-endpoints
{{- end }}
{{- end }}

{{- define "epp.selector" -}}
{{- $pairs := list }}
{{- range $key, $value := .Values.pool.matchLabels }}
{{- $pairs = append $pairs (printf "%s=%s" $key $value) }}
{{- end }}
{{- join "," $pairs }}
{{- end }}

{{/* Headless, so that whoever asks DNS learns every picker and balances by itself. */}}
{{- define "epp.headless" -}}
{{- if or .Values.service.headless (eq .Values.gateway "envoy-gateway") (include "epp.envoyDeployment" .) }}true{{ end }}
{{- end }}

{{/* "true" where an InferencePool is written. */}}
{{- define "epp.writesPool" -}}
{{- if and (eq .Values.mode "one-pool") (eq .Values.pool.source "inferencepool") .Values.pool.create }}true{{ end }}
{{- end }}

{{- define "epp.podSecurity" -}}
runAsNonRoot: true
runAsUser: 65532
runAsGroup: 65532
seccompProfile: {type: RuntimeDefault}
{{- end }}

{{- define "epp.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities: {drop: [ALL]}
{{- end }}
