{{/* The pod of a server: the same for replicas and for one. */}}
{{- define "keepbest.pod" -}}
metadata:
  labels:
    {{- include "keepbest.selector" (dict "of" . "suffix" "") | nindent 4 }}
    {{- with .Values.podLabels }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
  annotations:
    # A change of the settings is a rolling update.
    checksum/settings: {{ include "keepbest.toml" . | sha256sum }}
    {{- with .Values.podAnnotations }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
spec:
  serviceAccountName: {{ include "keepbest.serviceAccount" . }}
  automountServiceAccountToken: false
  # Or a service of this name would put KEEPBEST_PORT and the like into the environment.
  enableServiceLinks: false
  terminationGracePeriodSeconds: {{ .Values.terminationGracePeriodSeconds }}
  {{- include "keepbest.placement" (dict "of" . "suffix" "" "keys" .Values.topologyKeys) | nindent 2 }}
  securityContext:
    runAsNonRoot: true
    runAsUser: 10001
    runAsGroup: 10001
    fsGroup: 10001
    {{- if not (include "keepbest.hasReplicas" .) }}
    # A volume with many chunks is not walked through at each start.
    fsGroupChangePolicy: OnRootMismatch
    {{- end }}
    seccompProfile: { type: RuntimeDefault }
  containers:
    - name: keepbest
      image: {{ include "keepbest.image" (dict "image" .Values.image "version" .Chart.AppVersion) }}
      imagePullPolicy: {{ .Values.image.pullPolicy }}
      args: [serve]
      ports:
        - { name: grpc, containerPort: 7400 }
        {{- if .Values.metrics.enabled }}
        - { name: metrics, containerPort: {{ .Values.metrics.port }} }
        {{- end }}
      env:
        - { name: KEEPBEST_CONFIG, value: /etc/keepbest/keepbest.toml }
        {{- with include "keepbest.environment" . }}
        {{- . | nindent 8 }}
        {{- end }}
      {{- with include "keepbest.environmentSecrets" . }}
      envFrom:
        {{- . | nindent 8 }}
      {{- end }}
      {{- include "keepbest.probes" . | nindent 6 }}
      lifecycle:
        preStop:
          # The balancer looks the addresses up every 2 s, from a cache of 5: when the stop begins it knows.
          sleep: { seconds: 10 }
      resources:
        {{- toYaml .Values.resources | nindent 8 }}
      securityContext:
        {{- include "keepbest.containerSecurity" . | nindent 8 }}
      volumeMounts:
        - { name: config, mountPath: /etc/keepbest, readOnly: true }
        - { name: data, mountPath: /var/lib/keepbest }
        {{- if .Values.tls.existingSecret }}
        - { name: tls, mountPath: /etc/keepbest-tls, readOnly: true }
        {{- end }}
        {{- if .Values.tls.clientCa.existingSecret }}
        - { name: clients, mountPath: /etc/keepbest-clients, readOnly: true }
        {{- end }}
        {{- with .Values.extraVolumeMounts }}
        {{- toYaml . | nindent 8 }}
        {{- end }}
  volumes:
    - name: config
      configMap: { name: {{ include "keepbest.fullname" . }} }
    {{- if include "keepbest.hasReplicas" . }}
    # Nothing that must be kept.
    - name: data
      emptyDir: { sizeLimit: 16Mi }
    {{- else if .Values.persistence.existingClaim }}
    - name: data
      persistentVolumeClaim: { claimName: {{ .Values.persistence.existingClaim }} }
    {{- end }}
    {{- with .Values.tls.existingSecret }}
    - name: tls
      secret: { secretName: {{ . }} }
    {{- end }}
    {{- with .Values.tls.clientCa.existingSecret }}
    - name: clients
      secret: { secretName: {{ . }} }
    {{- end }}
    {{- with .Values.extraVolumes }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
{{- end -}}

{{/*
The health service answers "" with whether calls can be served, and `liveness` with whether the process works. A database
that is away fails the first and not the second: a restart would not bring it back. Probes of type grpc know no TLS.
*/}}
{{- define "keepbest.probes" -}}
startupProbe:
  {{- if .Values.tls.existingSecret }}
  tcpSocket: { port: grpc }
  {{- else }}
  grpc: { port: 7400, service: liveness }
  {{- end }}
  periodSeconds: 1
  failureThreshold: 60
livenessProbe:
  {{- if .Values.tls.existingSecret }}
  tcpSocket: { port: grpc }
  {{- else }}
  grpc: { port: 7400, service: liveness }
  {{- end }}
  periodSeconds: 10
  timeoutSeconds: 5
  failureThreshold: 3
readinessProbe:
  {{- if .Values.tls.existingSecret }}
  tcpSocket: { port: grpc }
  {{- else }}
  grpc: { port: 7400 }
  {{- end }}
  periodSeconds: 5
  # Longer than the server itself waits for its database (2 s).
  timeoutSeconds: 3
  failureThreshold: 2
{{- end -}}
