{{- define "tokenwire.name" -}}
{{- if contains .Chart.Name .Release.Name -}}
{{ .Release.Name | trunc 50 | trimSuffix "-" }}
{{- else -}}
{{ printf "%s-%s" .Release.Name .Chart.Name | trunc 50 | trimSuffix "-" }}
{{- end -}}
{{- end }}

{{- define "tokenwire.selector" -}}
app.kubernetes.io/name: {{ .root.Chart.Name }}
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/component: {{ .part }}
{{- end }}

{{- define "tokenwire.labels" -}}
{{ include "tokenwire.selector" . }}
app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .root.Chart.Name .root.Chart.Version | replace "+" "_" }}
{{- end }}

{{- define "tokenwire.image" -}}
{{- if .Values.image.digest -}}
{{ .Values.image.repository }}@{{ .Values.image.digest }}
{{- else -}}
{{ .Values.image.repository }}:{{ .Values.image.tag | default .Chart.AppVersion }}
{{- end -}}
{{- end }}

{{- /* Environment of one component: the common settings, overridden by its own. */}}
{{- define "tokenwire.settings" -}}
{{- $settings := merge (dict) .values.settings .root.Values.settings }}
{{- range $name, $value := $settings }}
- name: TOKENWIRE_{{ $name }}
  value: {{ $value | toString | quote }}
{{- end }}
- name: TOKENWIRE_DRAIN
  value: {{ .values.drain | quote }}
{{- if .root.Values.models }}
- name: TOKENWIRE_MODELS
  value: {{ .root.Values.models | toJson | quote }}
{{- end }}
- name: TOKENWIRE_STORE
  valueFrom:
    secretKeyRef:
      name: {{ .root.Values.store.existingSecret | default (include "tokenwire.name" .root) }}
      {{- if .root.Values.store.existingSecret }}
      key: {{ index .root.Values.store (printf "%sKey" .part) }}
      {{- else }}
      key: store
      {{- end }}
{{- end }}

{{- /* Security context and scheduling of a pod. */}}
{{- define "tokenwire.pod" -}}
automountServiceAccountToken: false
# A service called tokenwire would set TOKENWIRE_PORT=tcp://..., which is read as a setting.
enableServiceLinks: false
{{- with .root.Values.imagePullSecrets }}
imagePullSecrets: {{- toYaml . | nindent 2 }}
{{- end }}
securityContext: {{- toYaml .root.Values.podSecurityContext | nindent 2 }}
{{- with .values.nodeSelector }}
nodeSelector: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .values.tolerations }}
tolerations: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .values.affinity }}
affinity: {{- toYaml . | nindent 2 }}
{{- else }}
# Spread pods over nodes, so that the failure of one node stops as few as possible.
topologySpreadConstraints:
  - maxSkew: 1
    topologyKey: kubernetes.io/hostname
    whenUnsatisfiable: ScheduleAnyway
    labelSelector:
      matchLabels: {{- include "tokenwire.selector" (dict "root" .root "part" .part) | nindent 8 }}
{{- end }}
{{- end }}
