{{/* The picker's container. */}}
{{- define "epp.container" -}}
name: epp
image: {{ include "epp.image" . }}
imagePullPolicy: {{ .Values.image.pullPolicy }}
args:
{{ include "epp.flags" . | trim }}
env:
- name: POD_NAME
  valueFrom: {fieldRef: {fieldPath: metadata.name}}
- name: NAMESPACE
  valueFrom: {fieldRef: {fieldPath: metadata.namespace}}
{{- with .Values.extraEnv }}
{{ toYaml . }}
{{- end }}
ports:
- {name: grpc-ext-proc, containerPort: 9002}
- {name: grpc-health, containerPort: 9003}
- {name: http-metrics, containerPort: 9090}
{{- if .Values.modelsPort }}
- {name: http-models, containerPort: {{ .Values.modelsPort }}}
{{- end }}
# Alive is soon; ready is when the pool is known, however long the API server takes to tell it.
startupProbe:
  grpc: {port: 9003, service: liveness}
  periodSeconds: 2
  timeoutSeconds: 2
  failureThreshold: 60
livenessProbe:
  grpc: {port: 9003, service: liveness}
  periodSeconds: 10
  timeoutSeconds: 5
  failureThreshold: 3
readinessProbe:
  grpc: {port: 9003, service: readiness}
  periodSeconds: 2
  timeoutSeconds: 2
  failureThreshold: 2
{{- if include "epp.sidecar" . }}
# The pod's address is still known to balancers for a moment: until then Envoy must find its picker well.
lifecycle:
  preStop:
    sleep: {seconds: 10}
{{- end }}
resources:
{{ toYaml .Values.resources | indent 2 }}
securityContext:
{{ include "epp.containerSecurity" . | indent 2 }}
{{- with include "epp.mounts" . | trim }}
volumeMounts:
{{ . }}
{{- end }}
{{- end }}

{{/* Envoy's container; its configuration comes from deploy/envoy as it is. */}}
{{- define "epp.envoyContainer" -}}
name: envoy
image: {{ .Values.envoy.image }}
# Hot restart wants shared memory that a pod has no use for.
args: [--config-path, /etc/envoy/envoy.yaml, --disable-hot-restart, --log-level, info]
ports:
- {name: http, containerPort: 8081}
{{- if include "epp.sidecar" . }}
readinessProbe:
  httpGet: {path: /ready, port: 8081}
  periodSeconds: 2
  timeoutSeconds: 2
{{- else }}
readinessProbe:
  tcpSocket: {port: 8081}
  periodSeconds: 2
  timeoutSeconds: 2
{{- end }}
livenessProbe:
  tcpSocket: {port: 8081}
  periodSeconds: 10
  failureThreshold: 3
{{- if include "epp.sidecar" . }}
# A sidecar is stopped after the containers that it serves: so after the picker has seen every answer end.
restartPolicy: Always
{{- else }}
# Envoy ends at once when it is told to, whatever is open, and nobody can ask it to wait from outside the pod.
lifecycle:
  preStop:
    sleep: {seconds: {{ .Values.drainTimeoutSeconds }}}
{{- end }}
resources:
{{ toYaml .Values.envoy.resources | indent 2 }}
securityContext:
{{ include "epp.containerSecurity" . | indent 2 }}
volumeMounts:
- {name: envoy, mountPath: /etc/envoy, readOnly: true}
{{- end }}

{{/* Where the pods may run; called with the root and the component. */}}
{{- define "epp.placement" -}}
{{- with .root.Values.nodeSelector }}
nodeSelector:
{{ toYaml . | indent 2 }}
{{- end }}
{{- with .root.Values.tolerations }}
tolerations:
{{ toYaml . }}
{{- end }}
{{- with .root.Values.affinity }}
affinity:
{{ toYaml . | indent 2 }}
{{- end }}
{{- with .root.Values.priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
{{- if .root.Values.topologySpread }}
topologySpreadConstraints:
{{- range list "kubernetes.io/hostname" "topology.kubernetes.io/zone" }}
- maxSkew: 1
  topologyKey: {{ . }}
  whenUnsatisfiable: ScheduleAnyway
  labelSelector:
    matchLabels:
{{ include "epp.matchLabels" $.root | indent 6 }}
      app.kubernetes.io/component: {{ $.component }}
{{- end }}
{{- end }}
{{- with .root.Values.imagePullSecrets }}
imagePullSecrets:
{{ toYaml . }}
{{- end }}
{{- end }}
