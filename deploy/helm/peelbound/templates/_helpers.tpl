{{- define "peelbound.name" -}}
{{- if contains .Chart.Name .Release.Name -}}
{{- .Release.Name | trunc 40 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name .Chart.Name | trunc 40 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{- define "peelbound.serviceAccount" -}}
{{- .Values.serviceAccount.name | default (include "peelbound.name" .) -}}
{{- end -}}

{{/* Name of the RayCluster: KubeRay calls the head's service and the token's secret after it. */}}
{{- define "peelbound.ray" -}}
{{- printf "%s-ray" (include "peelbound.name" .) -}}
{{- end -}}

{{/* Arguments: root, part */}}
{{- define "peelbound.selector" -}}
app.kubernetes.io/name: peelbound
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/component: {{ .part }}
{{- end -}}

{{- define "peelbound.labels" -}}
{{ include "peelbound.selector" . }}
app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .root.Chart.Name .root.Chart.Version }}
{{- end -}}

{{/* Arguments: root, image */}}
{{- define "peelbound.image" -}}
image: {{ printf "%s:%s" .image.repository (.image.tag | default .root.Chart.AppVersion) | quote }}
imagePullPolicy: {{ .image.pullPolicy | default "IfNotPresent" }}
{{- end -}}

{{- define "peelbound.podSecurity" -}}
runAsNonRoot: true
runAsUser: 10001
runAsGroup: 10001
fsGroup: 10001
seccompProfile: {type: RuntimeDefault}
{{- end -}}

{{- define "peelbound.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities: {drop: [ALL]}
{{- end -}}

{{/* A setting as the text of its variable. Helm reads every number as a float, and prints large ones as 1.6777216e+07. */}}
{{- define "peelbound.setting" -}}
{{- if or (kindIs "slice" .) (kindIs "map" .) -}}
{{- toJson . -}}
{{- else if and (kindIs "float64" .) (eq . (floor .)) (lt . 9007199254740992.0) -}}
{{- int64 . -}}
{{- else -}}
{{- toString . -}}
{{- end -}}
{{- end -}}

{{/* Settings as environment variables; argument: root */}}
{{- define "peelbound.environment" -}}
- name: PEELBOUND_DATABASE_URL
  valueFrom: {secretKeyRef: {name: {{ .Values.database.secret.name }}, key: {{ .Values.database.secret.key }}}}
- name: PEELBOUND_STORE_URL
  value: {{ .Values.store.url | quote }}
{{- with .Values.store.endpoint }}
- name: PEELBOUND_S3_ENDPOINT_URL
  value: {{ . | quote }}
{{- end }}
{{- with .Values.store.region }}
- name: PEELBOUND_S3_REGION
  value: {{ . | quote }}
{{- end }}
{{- with .Values.store.secret }}
{{- if .name }}
- name: PEELBOUND_S3_ACCESS_KEY_ID
  valueFrom: {secretKeyRef: {name: {{ .name }}, key: {{ .accessKeyId }}}}
- name: PEELBOUND_S3_SECRET_ACCESS_KEY
  valueFrom: {secretKeyRef: {name: {{ .name }}, key: {{ .secretAccessKey }}}}
{{- end }}
{{- end }}
{{- range $name, $value := .Values.settings }}
- name: PEELBOUND_{{ upper $name }}
  value: {{ include "peelbound.setting" $value | quote }}
{{- end }}
{{- end -}}

{{/* How many workers fit when every group is at its largest: what Ray makes of the limits, by the rule of
peelbound.service.controller.cluster.fitting. */}}
{{- define "peelbound.clusterWorkers" -}}
{{- $share := .Values.settings.worker_gpus | default 0 | float64 -}}
{{- $sum := 0 -}}
{{- range .Values.ray.groups -}}
{{- $cpu := toString .resources.limits.cpu -}}
{{- $fitting := hasSuffix "m" $cpu | ternary (divf (trimSuffix "m" $cpu) 1000) $cpu | ceil | int64 -}}
{{- if gt $share 0.0 -}}
{{- $gpus := 0 -}}
{{- range $name, $number := .resources.limits -}}
{{- if hasSuffix "gpu" $name -}}{{- $gpus = int64 $number -}}{{- end -}}
{{- end -}}
{{- if ge $share 1.0 -}}
{{- $fitting = min $fitting (divf $gpus $share | floor | int64) -}}
{{- else -}}
{{- $fitting = min $fitting (mul $gpus (divf 1 $share | floor | int64)) -}}
{{- end -}}
{{- end -}}
{{- $sum = add $sum (mul .max $fitting) -}}
{{- end -}}
{{- if not $sum -}}
{{- fail "ray.groups: not a single worker fits; each takes one CPU, and settings.worker_gpus of a GPU" -}}
{{- end -}}
{{- $sum -}}
{{- end -}}

{{- define "peelbound.rayToken" -}}
- name: RAY_AUTH_MODE
  value: token
- name: RAY_AUTH_TOKEN
  valueFrom: {secretKeyRef: {name: {{ .Values.ray.tokenSecret | default (include "peelbound.ray" .) }}, key: auth_token}}
{{- end -}}
