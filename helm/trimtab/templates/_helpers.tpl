{{- define "trimtab.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 40 | trimSuffix "-" -}}
{{- end -}}

{{- define "trimtab.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 40 | trimSuffix "-" -}}
{{- else if contains (include "trimtab.name" .) .Release.Name -}}
{{- .Release.Name | trunc 40 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name (include "trimtab.name" .) | trunc 40 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{/* dict "root" $ "service" NAME: of the pods of one service */}}
{{- define "trimtab.selector" -}}
app.kubernetes.io/name: {{ include "trimtab.name" .root }}
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/component: {{ .service }}
{{- end -}}

{{- define "trimtab.labels" -}}
{{ include "trimtab.selector" . }}
app.kubernetes.io/part-of: trimtab
app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .root.Chart.Name .root.Chart.Version }}
{{- end -}}

{{- define "trimtab.image" -}}
{{- if .Values.image.digest -}}
{{ .Values.image.repository }}@{{ .Values.image.digest }}
{{- else -}}
{{ .Values.image.repository }}:{{ .Values.image.tag | default .Chart.AppVersion }}
{{- end -}}
{{- end -}}

{{- define "trimtab.serviceAccount" -}}
{{- if .Values.serviceAccount.create -}}
{{ .Values.serviceAccount.name | default (include "trimtab.fullname" .) }}
{{- else -}}
{{ .Values.serviceAccount.name | default "default" }}
{{- end -}}
{{- end -}}

{{/* What cannot be left out, each with its remedy. */}}
{{- define "trimtab.given" -}}
{{- $secret := required "existingSecret is empty: create a Secret with the keys that secretKeys names (docs/kubernetes.md) and give its name" .Values.existingSecret -}}
{{- $kafka := required "kafka.brokers is empty: give the brokers as host:port[,host:port]" .Values.kafka.brokers -}}
{{- $database := required "database.address is empty: give postgresql+asyncpg://USER@HOST/NAME?sslmode=verify-full" .Values.database.address -}}
{{- range $name, $address := dict "database.address" $database "migration.databaseAddress" .Values.migration.databaseAddress -}}
{{- if regexMatch "://[^@]*:[^@]*@" $address -}}
{{- fail (printf "%s holds a password: take it out, and put it into existingSecret (secretKeys)" $name) -}}
{{- end -}}
{{- end -}}
{{- if and .Values.migration.databaseAddress (not .Values.secretKeys.migrationPassword) (.Values.secretKeys.databasePassword) -}}
{{- fail "migration.databaseAddress names another role: say in secretKeys.migrationPassword which key has its password" -}}
{{- end -}}
{{- if hasPrefix "SASL" .Values.kafka.security -}}
{{- range $name := list "ingest" "rules" "actions" "console" -}}
{{- $own := (get $.Values $name).kafka -}}
{{- if not (and (or $own.user $.Values.kafka.user) (or $own.passwordKey $.Values.secretKeys.kafkaPassword)) -}}
{{- fail (printf "kafka.security is %s: give kafka.user, and in secretKeys.kafkaPassword the key of its password; or %s.kafka.user and %s.kafka.passwordKey, and so for each service" $.Values.kafka.security $name $name) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- range $name := list "ca" "cert" "certKey" -}}
{{- if and (get $.Values.kafka $name) (not $.Values.tlsSecret) -}}
{{- fail (printf "kafka.%s is a key of tlsSecret, which is empty: name the Secret that has it" $name) -}}
{{- end -}}
{{- end -}}
{{- if and .Values.rules.keda.enabled .Values.rules.autoscaling.enabled -}}
{{- fail "rules.keda and rules.autoscaling are both enabled: keep one" -}}
{{- end -}}
{{- range $name, $most := dict "rules.replicas" .Values.rules.replicas "rules.keda.maxReplicas" (ternary .Values.rules.keda.maxReplicas 0 .Values.rules.keda.enabled) "rules.autoscaling.maxReplicas" (ternary .Values.rules.autoscaling.maxReplicas 0 .Values.rules.autoscaling.enabled) -}}
{{- if gt (int $most) (int $.Values.kafka.partitions) -}}
{{- fail (printf "%s is %d, and kafka.partitions %d: an engine without a partition does nothing" $name (int $most) (int $.Values.kafka.partitions)) -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{/* Nothing of root, nothing to gain, nothing to write but what is mounted. */}}
{{- define "trimtab.podSecurity" -}}
runAsNonRoot: true
runAsUser: 10001
runAsGroup: 10001
fsGroup: 10001
fsGroupChangePolicy: OnRootMismatch
seccompProfile: {type: RuntimeDefault}
{{- end -}}

{{- define "trimtab.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
runAsNonRoot: true
capabilities: {drop: [ALL]}
seccompProfile: {type: RuntimeDefault}
{{- end -}}

{{/* dict "root" $ "service" NAME "values" its values, if it has some: secret key -> setting, of what this service needs */}}
{{- define "trimtab.secretFiles" -}}
{{- $keys := .root.Values.secretKeys -}}
{{- $wanted := dict "TRIMTAB_SECRET" $keys.secret "TRIMTAB_DATABASE_PASSWORD" $keys.databasePassword "TRIMTAB_KAFKA_PASSWORD" (((.values).kafka).passwordKey | default $keys.kafkaPassword) -}}
{{- if eq .service "ingest" -}}
{{- $_ := set $wanted "TRIMTAB_WEBHOOK_SECRETS" $keys.webhookSecrets -}}
{{- else if eq .service "rules" -}}
{{- $_ := set $wanted "TRIMTAB_CHECKPOINTS_SECRET_KEY" $keys.checkpointsSecretKey -}}
{{- else if eq .service "actions" -}}
{{- $_ := set $wanted "TRIMTAB_EXECUTORS" $keys.executors -}}
{{- $_ := set $wanted "TRIMTAB_SANDBOX_TOKEN" $keys.sandboxToken -}}
{{- else if eq .service "migrate" -}}
{{- $wanted = dict "TRIMTAB_DATABASE_PASSWORD" (ternary $keys.migrationPassword $keys.databasePassword (not (empty .root.Values.migration.databaseAddress))) -}}
{{- end -}}
{{- range $setting, $key := $wanted }}
{{- if $key }}
{{ $setting }}: {{ $key }}
{{- end }}
{{- end }}
{{- end -}}

{{- define "trimtab.secretVolumes" -}}
{{- $files := include "trimtab.secretFiles" . | fromYaml -}}
- name: tmp
  emptyDir: {sizeLimit: 256Mi}
{{- if $files }}
- name: secrets
  secret:
    secretName: {{ .root.Values.existingSecret }}
    defaultMode: 0440
    items:
      {{- range $setting, $key := $files }}
      - {key: {{ $key | quote }}, path: {{ $key | quote }}}
      {{- end }}
{{- end }}
{{- if .root.Values.tlsSecret }}
- name: tls
  secret:
    secretName: {{ .root.Values.tlsSecret }}
    defaultMode: 0440
{{- end }}
{{- end -}}

{{- define "trimtab.secretMounts" -}}
- {name: tmp, mountPath: /tmp}
{{- if include "trimtab.secretFiles" . | fromYaml }}
- {name: secrets, mountPath: /etc/trimtab/secrets, readOnly: true}
{{- end }}
{{- if .root.Values.tlsSecret }}
- {name: tls, mountPath: /etc/trimtab/tls, readOnly: true}
{{- end }}
{{- end -}}

{{- define "trimtab.secretEnvironment" -}}
{{- range $setting, $key := include "trimtab.secretFiles" . | fromYaml }}
- {name: {{ $setting }}_FILE, value: {{ printf "/etc/trimtab/secrets/%s" $key | quote }}}
{{- end }}
{{- end -}}

{{/* dict "root" $ "service" NAME "values" its values: the settings that are its own */}}
{{- define "trimtab.ownSettings" -}}
{{- $name := include "trimtab.fullname" .root -}}
{{- $own := dict -}}
{{- if eq .service "rules" -}}
{{- $own = dict "TRIMTAB_ADVERTISE" .values.advertise -}}
{{- else if eq .service "actions" -}}
{{- $own = dict "TRIMTAB_ACTIONS" .values.mode -}}
{{- if .values.witness.existingClaim -}}{{- $_ := set $own "TRIMTAB_WITNESS" "/var/lib/witness" -}}{{- end -}}
{{- if .values.sandboxUrl -}}{{- $_ := set $own "TRIMTAB_SANDBOX_URL" .values.sandboxUrl -}}{{- end -}}
{{- else if eq .service "console" -}}
{{- range $other := list "ingest" "rules" "actions" -}}
{{- $_ := set $own (printf "TRIMTAB_%s_URL" (upper $other)) (printf "http://%s-%s:8420" $name $other) -}}
{{- end -}}
{{- if .values.url -}}{{- $_ := set $own "TRIMTAB_ADVERTISE" .values.url -}}{{- end -}}
{{- end -}}
{{- if and .values.kafka.user (hasPrefix "SASL" .root.Values.kafka.security) -}}{{- $_ := set $own "TRIMTAB_KAFKA_USER" .values.kafka.user -}}{{- end -}}
{{- range $setting, $value := merge (deepCopy .values.settings) $own }}
- {name: {{ $setting }}, value: {{ $value | toString | quote }}}
{{- end }}
{{- end -}}

{{- define "trimtab.metadata" -}}
labels:
  {{- include "trimtab.labels" . | nindent 2 }}
  {{- with .root.Values.podLabels }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
annotations:
  checksum/settings: {{ include "trimtab.settings" .root | sha256sum }}
  {{- with .root.Values.podAnnotations }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
{{- end -}}

{{/* dict "root" $ "service" NAME "values" its values "data" the volume of /var/lib/trimtab, if the chart is not to make one: a pod of one service */}}
{{- define "trimtab.pod" -}}
{{- $root := .root -}}
serviceAccountName: {{ include "trimtab.serviceAccount" $root }}
automountServiceAccountToken: false
enableServiceLinks: false # a Service called trimtab-... would set variables that begin with TRIMTAB_, and what is no setting stops the start
terminationGracePeriodSeconds: 30 # 4 until nobody sends any more, 25 to drain
securityContext:
  {{- include "trimtab.podSecurity" $root | nindent 2 }}
{{- with $root.Values.image.pullSecrets }}
imagePullSecrets:
  {{- range . }}
  - name: {{ . }}
  {{- end }}
{{- end }}
containers:
  - name: {{ .service }}
    image: {{ include "trimtab.image" $root }}
    imagePullPolicy: {{ $root.Values.image.pullPolicy }}
    args: [serve, {{ .service }}]
    ports:
      - {name: http, containerPort: 8420}
    envFrom:
      - configMapRef: {name: {{ include "trimtab.fullname" $root }}}
    env:
      - name: POD_IP
        valueFrom: {fieldRef: {fieldPath: status.podIP}}
      {{- include "trimtab.ownSettings" . | nindent 6 }}
      {{- include "trimtab.secretEnvironment" . | nindent 6 }}
    startupProbe:
      httpGet: {path: /livez, port: http}
      periodSeconds: 2
      timeoutSeconds: 2
      failureThreshold: 60
    livenessProbe: # its loops come round, whether or not Kafka and the database answer: no restart would mend those
      httpGet: {path: /livez, port: http}
      periodSeconds: 10
      timeoutSeconds: 5
      failureThreshold: 6
    readinessProbe: # what it needs answers, and its partitions are followed
      httpGet: {path: /readyz, port: http}
      periodSeconds: 5
      timeoutSeconds: 5
      failureThreshold: 2
    lifecycle:
      preStop: {sleep: {seconds: 4}}
    resources:
      {{- toYaml .values.resources | nindent 6 }}
    securityContext:
      {{- include "trimtab.containerSecurity" $root | nindent 6 }}
    volumeMounts:
      - {name: data, mountPath: /var/lib/trimtab}
      {{- if (.values.witness).existingClaim }}
      - {name: witness, mountPath: /var/lib/witness}
      {{- end }}
      {{- include "trimtab.secretMounts" . | nindent 6 }}
volumes:
  {{- with .data }}
  {{- . | nindent 2 }}
  {{- end }}
  {{- with (.values.witness).existingClaim }}
  - name: witness
    persistentVolumeClaim: {claimName: {{ . }}}
  {{- end }}
  {{- include "trimtab.secretVolumes" . | nindent 2 }}
{{- if $root.Values.topologySpread.enabled }}
{{- $selector := include "trimtab.selector" . }}
topologySpreadConstraints:
  {{- range $root.Values.topologySpread.keys }}
  - maxSkew: 1
    topologyKey: {{ . }}
    whenUnsatisfiable: ScheduleAnyway
    labelSelector:
      matchLabels:
        {{- $selector | nindent 8 }}
  {{- end }}
{{- end }}
{{- with .values.placement.nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .values.placement.tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .values.placement.affinity }}
affinity:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .values.placement.priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
{{- end -}}

{{/* The settings that all services share. */}}
{{- define "trimtab.settings" -}}
{{- $kafka := .Values.kafka -}}
TRIMTAB_KAFKA: {{ $kafka.brokers | quote }}
TRIMTAB_KAFKA_PREFIX: {{ $kafka.prefix | quote }}
TRIMTAB_KAFKA_PARTITIONS: {{ $kafka.partitions | quote }}
TRIMTAB_KAFKA_REPLICAS: {{ $kafka.replicas | quote }}
TRIMTAB_KAFKA_RETENTION_DAYS: {{ $kafka.retentionDays | quote }}
TRIMTAB_KAFKA_SECURITY: {{ $kafka.security }}
{{- if hasPrefix "SASL" $kafka.security }}
TRIMTAB_KAFKA_MECHANISM: {{ $kafka.mechanism }}
TRIMTAB_KAFKA_USER: {{ $kafka.user | quote }}
{{- end }}
{{- range $setting, $key := dict "TRIMTAB_KAFKA_CA" $kafka.ca "TRIMTAB_KAFKA_CERT" $kafka.cert "TRIMTAB_KAFKA_CERT_KEY" $kafka.certKey }}
{{- if $key }}
{{ $setting }}: {{ printf "/etc/trimtab/tls/%s" $key | quote }}
{{- end }}
{{- end }}
TRIMTAB_DATABASE: {{ .Values.database.address | quote }}
TRIMTAB_LOG_LEVEL: {{ .Values.log.level }}
TRIMTAB_LOG_FORMAT: {{ .Values.log.format }}
{{- range $setting, $value := .Values.settings }}
{{ $setting }}: {{ $value | toString | quote }}
{{- end }}
{{- end -}}
