{{/* Every flag of epp serve that the values lead to. */}}
{{- define "epp.flags" -}}
{{- if eq .Values.mode "one-pool" }}
{{- if eq .Values.pool.source "selector" }}
- --endpoint-selector={{ include "epp.selector" . }}
- --endpoint-target-ports={{ join "," .Values.pool.targetPorts }}
{{- else }}
- --pool-name={{ include "epp.pool" . }}
{{- end }}
- --pool-namespace=$(NAMESPACE)
{{- else if eq .Values.mode "many-pools" }}
{{- if .Values.pools.selector }}
- --pool-selector={{ .Values.pools.selector }}
{{- else }}
- --all-pools
{{- end }}
{{- if .Values.pools.allNamespaces }}
- --all-namespaces
{{- else }}
- --pool-namespace=$(NAMESPACE)
{{- end }}
{{- if .Values.pools.trustHeader }}
- --trust-pool-header
{{- end }}
{{- if .Values.pools.configs }}
- --pool-config-dir=/etc/epp/pools
{{- end }}
{{- else }}
- --pool-name={{ include "epp.pool" . }}
- --endpoints-file=/etc/epp/endpoints/endpoints.yaml
{{- end }}
{{- if include "epp.configMap" . }}
- --config-file=/etc/epp/config/epp.yaml
{{- end }}
{{- if .Values.allowExperimentalPlugins }}
- --allow-experimental-plugins
{{- end }}
- --grpc-port=9002
- --grpc-health-port=9003
- --metrics-port=9090
{{- if .Values.modelsPort }}
- --models-port={{ .Values.modelsPort }}
{{- end }}
- --secure-serving={{ include "epp.tls" . | default "false" }}
{{- if and (include "epp.tls" .) .Values.tls.certSecret }}
- --cert-path=/etc/epp/tls
- --enable-cert-reload
{{- end }}
- --metrics-endpoint-auth={{ include "epp.metricsAuth" . | default "false" }}
{{- if and (include "epp.metricsAuth" .) .Values.metrics.tokenSecret.name }}
- --metrics-token-file=/etc/epp/metrics-token/{{ .Values.metrics.tokenSecret.key }}
{{- end }}
{{- if .Values.metrics.certSecret }}
- --metrics-cert-dir=/etc/epp/metrics-tls
{{- end }}
{{- if .Values.leaderElection }}
- --ha-enable-leader-election
{{- end }}
- --drain-timeout={{ .Values.drainTimeoutSeconds }}s
- -v={{ .Values.logLevel }}
{{- range .Values.extraArgs }}
- {{ . | quote }}
{{- end }}
{{- end }}

{{- define "epp.volumes" -}}
{{- with include "epp.configMap" . }}
- name: config
  configMap: {name: {{ . }}}
{{- end }}
{{- if and (eq .Values.mode "many-pools") .Values.pools.configs }}
- name: pools
  configMap: {name: {{ include "epp.fullname" . }}-pools}
{{- end }}
{{- if eq .Values.mode "standalone" }}
- name: endpoints
  configMap: {name: {{ include "epp.endpointsMap" . }}}
{{- end }}
{{- if and (include "epp.tls" .) .Values.tls.certSecret }}
- name: tls
  secret: {secretName: {{ .Values.tls.certSecret }}}
{{- end }}
{{- if and (include "epp.metricsAuth" .) .Values.metrics.tokenSecret.name }}
- name: metrics-token
  secret: {secretName: {{ .Values.metrics.tokenSecret.name }}}
{{- end }}
{{- with .Values.metrics.certSecret }}
- name: metrics-tls
  secret: {secretName: {{ . }}}
{{- end }}
{{- end }}

{{/* Whole folders, never subPath: Kubernetes renews only those. */}}
{{- define "epp.mounts" -}}
{{- range $name, $path := dict "config" "config" "pools" "pools" "endpoints" "endpoints" "tls" "tls" "metrics-token" "metrics-token" "metrics-tls" "metrics-tls" }}
{{- if contains (printf "name: %s\n" $name) (printf "%s\n" (include "epp.volumes" $)) }}
- {name: {{ $name }}, mountPath: /etc/epp/{{ $path }}, readOnly: true}
{{- end }}
{{- end }}
{{- end }}
