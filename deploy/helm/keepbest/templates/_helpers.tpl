{{/* What everything is called. */}}
{{- define "keepbest.fullname" -}}
{{- $name := default .Chart.Name .Values.nameOverride -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 50 | trimSuffix "-" -}}
{{- else if contains $name .Release.Name -}}
{{- .Release.Name | trunc 50 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name $name | trunc 50 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{- define "keepbest.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 50 | trimSuffix "-" -}}
{{- end -}}

{{/* By what pods are found: (dict "of" . "suffix" "-balancer"). Never changed: a Deployment's selector cannot be. */}}
{{- define "keepbest.selector" -}}
app.kubernetes.io/name: {{ include "keepbest.name" .of }}{{ .suffix }}
app.kubernetes.io/instance: {{ .of.Release.Name }}
{{- end -}}

{{- define "keepbest.labels" -}}
{{ include "keepbest.selector" . }}
app.kubernetes.io/part-of: keepbest
app.kubernetes.io/version: {{ .of.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .of.Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .of.Chart.Name .of.Chart.Version | replace "+" "_" }}
{{- end -}}

{{/* (dict "image" .Values.image "version" .Chart.AppVersion) */}}
{{- define "keepbest.image" -}}
{{- if .image.digest -}}
{{ .image.repository }}@{{ .image.digest }}
{{- else -}}
{{ .image.repository }}:{{ .image.tag | default .version }}
{{- end -}}
{{- end -}}

{{- define "keepbest.serviceAccount" -}}
{{- if .Values.serviceAccount.create -}}
{{- .Values.serviceAccount.name | default (include "keepbest.fullname" .) -}}
{{- else -}}
{{- .Values.serviceAccount.name | default "default" -}}
{{- end -}}
{{- end -}}

{{/* Whether there are replicas, and a balancer before them. */}}
{{- define "keepbest.hasReplicas" -}}
{{- if eq .Values.mode "replicas" }}yes{{ end -}}
{{- end -}}

{{- define "keepbest.hasBalancer" -}}
{{- if and (eq .Values.mode "replicas") .Values.balancer.enabled }}yes{{ end -}}
{{- end -}}

{{/* What cannot work is refused before anything is installed. */}}
{{- define "keepbest.check" -}}
{{- if include "keepbest.hasReplicas" . -}}
{{- if not .Values.store.url -}}
{{- fail "store.url is empty: replicas share an object store, as s3://BUCKET/PREFIX; or set mode=single" -}}
{{- end -}}
{{- if not (or .Values.database.existingSecret.name .Values.environmentSecrets .Values.settings.database_url) -}}
{{- fail "replicas share a Postgres database: name a secret with KEEPBEST_DATABASE_URL in environmentSecrets, or one with the address alone in database.existingSecret; or set mode=single" -}}
{{- end -}}
{{- else if or .Values.database.existingSecret.name .Values.settings.database_url -}}
{{- fail "mode=single keeps SQLite on its volume: leave database.existingSecret and settings.database_url out, or set mode=replicas" -}}
{{- end -}}
{{- if and .Values.tls.existingSecret (include "keepbest.hasBalancer" .) -}}
{{- fail "tls.existingSecret lets the servers speak TLS, and the balancer speaks none to them: set balancer.tls.existingSecret instead, or balancer.enabled=false" -}}
{{- end -}}
{{- if and .Values.tls.clientCa.existingSecret (not .Values.tls.existingSecret) -}}
{{- fail "tls.clientCa needs tls.existingSecret, the server's own certificate" -}}
{{- end -}}
{{- if and .Values.tls.requireClientCertificate (not .Values.tls.clientCa.existingSecret) -}}
{{- fail "tls.requireClientCertificate needs tls.clientCa.existingSecret, the authority of the certificates" -}}
{{- end -}}
{{- if and .Values.metrics.serviceMonitor.enabled (not .Values.metrics.enabled) -}}
{{- fail "metrics.serviceMonitor needs metrics.enabled" -}}
{{- end -}}
{{- if and .Values.metrics.serviceMonitor.enabled .Values.networkPolicy.enabled (not .Values.networkPolicy.scrapers) -}}
{{- fail "metrics.serviceMonitor asks a port that the network policy opens to nobody: name who scrapes in networkPolicy.scrapers" -}}
{{- end -}}
{{- if not (or .Values.networkPolicy.enabled .Values.tls.requireClientCertificate .Values.allowUnguarded (dig "auth" "required" false .Values.settings)) -}}
{{- fail "nothing guards the port: leave networkPolicy.enabled on, set settings.auth.required=true, or say allowUnguarded=true because something else guards it" -}}
{{- end -}}
{{- $drain := dig "limits" "drain_seconds" 10 .Values.settings | int -}}
{{- if le (.Values.terminationGracePeriodSeconds | int) (add 10 $drain 20) -}}
{{- fail (printf "terminationGracePeriodSeconds of %v is too short: the pause before the stop takes 10 s, settings.limits.drain_seconds %d, and what hangs on a database 20" .Values.terminationGracePeriodSeconds $drain) -}}
{{- end -}}
{{- end -}}

{{/* A value as TOML has it. Helm's own toToml makes 24.0 of 24. */}}
{{- define "keepbest.tomlValue" -}}
{{- if kindIs "float64" . -}}
{{ int64 . }}
{{- else -}}
{{ toJson . }}
{{- end -}}
{{- end -}}

{{/* The file of settings: the values', and those that follow from the others. */}}
{{- define "keepbest.toml" -}}
{{- $settings := deepCopy .Values.settings -}}
{{- $_ := set $settings "listen" "0.0.0.0:7400" -}}
{{- $_ := set $settings "data_dir" "/var/lib/keepbest" -}}
{{- if .Values.store.url }}{{ $_ := set $settings "store_url" .Values.store.url }}{{ end -}}
{{- if .Values.tls.existingSecret -}}
{{- $tls := dict "certificate" "/etc/keepbest-tls/tls.crt" "key" "/etc/keepbest-tls/tls.key" -}}
{{- if .Values.tls.clientCa.existingSecret -}}
{{- $_ := set $tls "client_ca" (printf "/etc/keepbest-clients/%s" .Values.tls.clientCa.key) -}}
{{- $_ := set $tls "require_client_certificate" .Values.tls.requireClientCertificate -}}
{{- end -}}
{{- $_ := set $settings "tls" $tls -}}
{{- end -}}
{{- if .Values.metrics.enabled }}{{ $_ := set $settings "metrics" (dict "listen" (printf "0.0.0.0:%d" (int .Values.metrics.port))) }}{{ end -}}
# Something guards the port: the NetworkPolicy, tokens, certificates, or what `allowUnguarded` stands for.
allow_remote = true
{{- range $key, $value := $settings }}
{{- if not (kindIs "map" $value) }}
{{ $key }} = {{ include "keepbest.tomlValue" $value }}
{{- end }}
{{- end }}
{{- range $section, $keys := $settings }}
{{- if kindIs "map" $keys }}

[{{ $section }}]
{{- range $key, $value := $keys }}
{{ $key }} = {{ include "keepbest.tomlValue" $value }}
{{- end }}
{{- end }}
{{- end }}
{{ end -}}

{{/* Of the balancer: deploy/envoy.yaml, with this release's name, and with TLS if it is wanted. */}}
{{- define "keepbest.envoy" -}}
{{- $file := .Files.Get "files/envoy.yaml" -}}
{{- $address := "address: keepbest-replicas," -}}
{{- if not (contains $address $file) }}{{ fail "files/envoy.yaml names no keepbest-replicas" }}{{ end -}}
{{- $file = replace $address (printf "address: %s-replicas," (include "keepbest.fullname" .)) $file -}}
{{- if .Values.balancer.tls.existingSecret -}}
{{- $chain := "state: STATE_PREBIND }\n      filter_chains:\n        - filters:\n" -}}
{{- if not (contains $chain $file) }}{{ fail "files/envoy.yaml has no chain of filters where TLS begins" }}{{ end -}}
{{- $file = replace $chain (printf "state: STATE_PREBIND }\n      filter_chains:\n        - transport_socket: %s\n          filters:\n" (include "keepbest.envoyTls" .)) $file -}}
{{- end -}}
{{ $file }}
{{- end -}}

{{/* JSON, which is YAML and has no indentation to keep. */}}
{{- define "keepbest.envoyTls" -}}
{{- $pair := dict "certificate_chain" (dict "filename" "/etc/envoy-tls/tls.crt") "private_key" (dict "filename" "/etc/envoy-tls/tls.key") -}}
{{- $common := dict "tls_params" (dict "tls_minimum_protocol_version" "TLSv1_2") "alpn_protocols" (list "h2" "http/1.1") "tls_certificates" (list $pair) -}}
{{- $context := dict "@type" "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext" "common_tls_context" $common -}}
{{- toJson (dict "name" "envoy.transport_sockets.tls" "typed_config" $context) -}}
{{- end -}}

{{/* What no container of ours may do. */}}
{{- define "keepbest.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities: { drop: [ALL] }
{{- end -}}

{{/* Where pods go; (dict "of" . "suffix" "" "keys" (list ...)) */}}
{{- define "keepbest.placement" -}}
{{- with .keys }}
topologySpreadConstraints:
  {{- range . }}
  - maxSkew: 1
    topologyKey: {{ . }}
    whenUnsatisfiable: ScheduleAnyway
    labelSelector:
      matchLabels:
        {{- include "keepbest.selector" $ | nindent 8 }}
  {{- end }}
{{- end }}
{{- with .of.Values.nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .of.Values.tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .of.Values.affinity }}
affinity:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .of.Values.priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
{{- with .of.Values.imagePullSecrets }}
imagePullSecrets:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end -}}

{{/* The environment that servers and migration have in common. */}}
{{- define "keepbest.environment" -}}
{{- with .Values.database.existingSecret }}{{ if .name }}
- name: KEEPBEST_DATABASE_URL
  valueFrom:
    secretKeyRef: { name: {{ .name }}, key: {{ .key }} }
{{- end }}{{ end }}
{{- with .Values.extraEnv }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{- define "keepbest.environmentSecrets" -}}
{{- range .Values.environmentSecrets }}
- secretRef: { name: {{ . }} }
{{- end }}
{{- end -}}
