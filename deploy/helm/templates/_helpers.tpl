{{/* The name of all objects of the release. */}}
{{- define "bay.name" -}}
{{- if contains "bay" .Release.Name }}{{ .Release.Name }}{{ else }}{{ .Release.Name }}-bay{{ end }}
{{- end }}

{{/* The name of objects without a namespace. */}}
{{- define "bay.clusterName" -}}
{{ .Release.Namespace }}-{{ include "bay.name" . }}
{{- end }}

{{- define "bay.serviceAccount" -}}
{{ .Values.serviceAccount.name | default (include "bay.name" .) }}
{{- end }}

{{/* Pods of the server. The policies of sandboxes know Bay by the first and the third. */}}
{{- define "bay.selector" -}}
app.kubernetes.io/name: bay
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/component: server
{{- end }}

{{- define "bay.labels" -}}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ .Chart.Name }}-{{ .Chart.Version }}
{{- end }}

{{- define "bay.install" -}}
{{- $install := .Values.sandboxes.install | default .Release.Name }}
{{- if not (regexMatch "^[a-z0-9]([a-z0-9-]{0,30}[a-z0-9])?$" $install) }}
{{- fail (printf "the release %s is no label of an installation: set sandboxes.install to at most 32 letters, digits and -" .Release.Name) }}
{{- end }}
{{- $install }}
{{- end }}

{{- define "bay.image" -}}
{{ required "set image.repository to the image of deploy/Dockerfile.kubernetes" .Values.image.repository }}:{{ .Values.image.tag | default .Chart.AppVersion }}
{{- end }}

{{/* Bay's configuration file. */}}
{{- define "bay.settings" -}}
{{- $cluster := .Values.settings.kubernetes }}
{{- $_ := required "set settings.kubernetes.image to the image of sandboxes" $cluster.image }}
{{- $_ := required "set settings.kubernetes.ship_image to the image that `bay admin ship-image` writes" $cluster.ship_image }}
{{- if eq .Values.sandboxes.namespace .Release.Namespace }}
{{- fail "sandboxes.namespace is the namespace of the release; give the sandboxes another one" }}
{{- end }}
{{- $cluster = merge (dict "install" (include "bay.install" .) "namespace" .Values.sandboxes.namespace) $cluster }}
{{- if .Values.egressProxy.enabled }}
{{- if not $cluster.network_enforced }}
{{- fail "egressProxy.enabled needs settings.kubernetes.network_enforced: pods that no policy holds walk around the proxy" }}
{{- end }}
{{- $port := int .Values.egressProxy.port }}
{{- $place := printf "%s-egress.%s.svc:%d" (include "bay.name" .) .Release.Namespace $port }}
{{- $cluster = merge (dict "egress_proxy" $place "egress_proxy_listen" (printf "0.0.0.0:%d" $port)) $cluster }}
{{- end }}
{{- $own := dict "driver" "kubernetes" "replicas" true "kubernetes" $cluster }}
{{- if and .Values.ingress.enabled (not (hasKey .Values.settings "public_url")) }}
{{- $_ := set $own "public_url" (printf "https://%s" (required "set ingress.host" .Values.ingress.host)) }}
{{- end }}
{{- toToml (merge $own (omit .Values.settings "kubernetes")) }}
{{- end }}

{{/* What the Pod Security Standard `restricted` asks of a pod, and of a container. */}}
{{- define "bay.podSecurity" -}}
runAsNonRoot: true
runAsUser: 10001
runAsGroup: 10001
fsGroup: 10001
seccompProfile: {type: RuntimeDefault}
{{- end }}

{{- define "bay.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities: {drop: [ALL]}
{{- end }}

{{/* Variables of the server and of migrations: the database, and directories that a pod has for itself. */}}
{{- define "bay.env" -}}
- {name: BAY_DATABASE_URL, valueFrom: {secretKeyRef: {{ toJson .Values.secrets.database }}}}
- {name: BAY_DATA_DIR, value: /data}
- {name: BAY_RUN_DIR, value: /data/run}
- {name: BAY_CACHE_DIR, value: /data/cache}
- {name: HOME, value: /data}
{{- with .Values.extraEnv }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{- define "bay.volumes" -}}
- {name: data, emptyDir: {sizeLimit: {{ .Values.dataSizeLimit | quote }}}}
- {name: tmp, emptyDir: {sizeLimit: 64Mi}}
{{- with .Values.extraVolumes }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{- define "bay.mounts" -}}
- {name: data, mountPath: /data}
- {name: tmp, mountPath: /tmp}
{{- with .Values.extraVolumeMounts }}
{{ toYaml . }}
{{- end }}
{{- end }}
