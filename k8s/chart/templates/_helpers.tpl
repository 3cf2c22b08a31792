{{/* The labels that select the pods. The release's name is in every object's name, and not in these labels:
they are those of the kustomize base, so one namespace holds one release. */}}
{{- define "firstopen.selector" -}}
app.kubernetes.io/name: firstopen
{{- end }}

{{- define "firstopen.labels" -}}
{{ include "firstopen.selector" . }}
{{ include "firstopen.configLabels" . }}
{{- end }}

{{- define "firstopen.configLabels" -}}
app.kubernetes.io/part-of: firstopen
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ .Chart.Name }}-{{ .Chart.Version }}
{{- end }}

{{- define "firstopen.image" -}}
{{- if .Values.image.digest -}}
{{ .Values.image.repository }}@{{ .Values.image.digest }}
{{- else -}}
{{ .Values.image.repository }}:{{ .Values.image.tag | default .Chart.AppVersion }}
{{- end -}}
{{- end }}

{{- define "firstopen.config" -}}
{{ .Values.config | default (.Files.Get "files/firstopen.toml") }}
{{- end }}
