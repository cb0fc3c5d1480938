{{/* Names. */}}
{{- define "kvquilt.name" -}}
{{- if contains "kvquilt" .Release.Name -}}{{ .Release.Name | trunc 30 | trimSuffix "-" }}{{- else -}}{{ printf "%s-kvquilt" (.Release.Name | trunc 22 | trimSuffix "-") }}{{- end -}}
{{- end -}}

{{- define "kvquilt.host" -}}{{ .name }}.{{ .root.Release.Namespace }}.svc{{- end -}}

{{- define "kvquilt.nodeHost" -}}{{ include "kvquilt.host" (dict "root" . "name" (printf "%s-nodes" (include "kvquilt.name" .))) }}{{- end -}}

{{/* What pods of one part are chosen by: (dict root, part, model). */}}
{{- define "kvquilt.selector" -}}
app.kubernetes.io/name: kvquilt
app.kubernetes.io/instance: {{ .root.Release.Name | quote }}
app.kubernetes.io/component: {{ .part }}
{{- with .model }}
kvquilt.io/model: {{ . | quote }}
{{- end }}
{{- end -}}

{{- define "kvquilt.labels" -}}
{{ include "kvquilt.selector" . }}
app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .root.Chart.Name .root.Chart.Version | replace "+" "_" }}
{{- end -}}

{{/* Image: (dict root, name). */}}
{{- define "kvquilt.image" -}}
{{- with .root.Values.image.registry }}{{ trimSuffix "/" . }}/{{ end -}}
{{ .name }}:{{ .root.Values.image.tag | default .root.Chart.AppVersion }}
{{- end -}}

{{/* Bytes of a quantity such as 20Gi. */}}
{{- define "kvquilt.bytes" -}}
{{- $number := regexFind "^[0-9]+" . | int64 -}}
{{- $unit := regexFind "[A-Z]i$" . -}}
{{- $factor := get (dict "Ki" 1024 "Mi" 1048576 "Gi" 1073741824 "Ti" 1099511627776) $unit | int64 -}}
{{- mul $number $factor -}}
{{- end -}}

{{/* Whole cores of a CPU quantity, at least one. */}}
{{- define "kvquilt.cores" -}}
{{- if hasSuffix "m" . -}}{{ max 1 (div (trimSuffix "m" . | int64) 1000) }}{{- else -}}{{ . | int64 }}{{- end -}}
{{- end -}}

{{- define "kvquilt.mebibytes" -}}{{ div (add . 1048575) 1048576 }}Mi{{- end -}}

{{/* Of every pod. */}}
{{- define "kvquilt.podSecurity" -}}
runAsNonRoot: true
runAsUser: 10001
runAsGroup: 10001
fsGroup: 10001
fsGroupChangePolicy: OnRootMismatch
seccompProfile: {type: RuntimeDefault}
{{- end -}}

{{- define "kvquilt.containerSecurity" -}}
allowPrivilegeEscalation: false
privileged: false
readOnlyRootFilesystem: true
capabilities: {drop: [ALL]}
{{- end -}}

{{/* Pods of one part are spread over zones and machines: (dict root, part, model). */}}
{{- define "kvquilt.spread" -}}
topologySpreadConstraints:
  {{- range list "topology.kubernetes.io/zone" "kubernetes.io/hostname" }}
  - maxSkew: 1
    topologyKey: {{ . }}
    whenUnsatisfiable: ScheduleAnyway
    labelSelector: {matchLabels: {{ include "kvquilt.selector" $ | fromYaml | toJson }}}
  {{- end }}
affinity:
  podAntiAffinity:
    preferredDuringSchedulingIgnoredDuringExecution:
      - weight: 100
        podAffinityTerm:
          topologyKey: kubernetes.io/hostname
          labelSelector: {matchLabels: {{ include "kvquilt.selector" $ | fromYaml | toJson }}}
{{- end -}}

{{/* Health is asked on a port of its own, which knows neither TLS nor tokens: as kubelets. (dict startSeconds) */}}
{{- define "kvquilt.probes" -}}
startupProbe:
  grpc: {port: 7412}
  periodSeconds: 5
  timeoutSeconds: 5
  failureThreshold: {{ div .startSeconds 5 }}
readinessProbe:
  grpc: {port: 7412}
  periodSeconds: 5
  timeoutSeconds: 5
  failureThreshold: 2
livenessProbe:
  grpc: {port: 7412, service: liveness}
  periodSeconds: 10
  timeoutSeconds: 10
  failureThreshold: 6
{{- end -}}

{{/* Settings in Redis and object storage are the same for the node and for `kvquilt repair`. */}}
{{- define "kvquilt.redisSecret" -}}
{{- if .Values.storage.redis.bundled -}}
{{ include "kvquilt.name" . }}-valkey
{{- else -}}
{{ .Values.storage.redis.urlSecret.secret }}
{{- end -}}
{{- end -}}

{{- define "kvquilt.maxMemory" -}}
{{- $index := include "kvquilt.bytes" .Values.storage.redis.indexMemory | int64 -}}
{{- $objects := ternary (div (mul (include "kvquilt.bytes" .Values.storage.capacity | int64) 4) 3) 0 (eq .Values.storage.objects "redis") -}}
{{- add $index $objects -}}
{{- end -}}

{{/* Secret with the certificate of a part: node, router, routerClient. (dict root, part) */}}
{{- define "kvquilt.tlsSecret" -}}
{{- if eq .root.Values.tls.mode "certManager" -}}
{{ include "kvquilt.name" .root }}-{{ kebabcase .part }}-tls
{{- else -}}
{{ index .root.Values.tls.secrets .part }}
{{- end -}}
{{- end -}}

{{/* Name that the router's own certificate has, by which nodes know it. */}}
{{- define "kvquilt.routerIdentity" -}}{{ include "kvquilt.host" (dict "root" . "name" (printf "%s-router" (include "kvquilt.name" .))) }}{{- end -}}

{{/* What nodes need to be allowed in Redis (docs/stores.md). */}}
{{- define "kvquilt.redisRights" -}}
+ping +get +getrange +set +eval +exists +persist +pttl +unlink +scan +cluster|slots +cluster|shards +client|setinfo +evalsha +time +info +hget +hgetall +hkeys +hset +hdel +hmget +hexists +hincrby +hscan +sadd +srem +smembers +srandmember +zadd +zrem +zscore +zcard +zrange +zrevrange +zrangebyscore +zrangebylex +type
{{- end -}}

{{/* Whether `helm test` has somebody to call as. */}}
{{- define "kvquilt.isTested" -}}
{{- $mode := .Values.callers.mode -}}
{{- $tokens := and (eq $mode "tokens") .Values.helmTest.token.secret -}}
{{- $certificates := and (eq $mode "certificates") .Values.helmTest.certificate -}}
{{- if and .Values.helmTest.enabled (or (eq $mode "anonymous") $tokens $certificates) }}true{{ end -}}
{{- end -}}

{{/* Of a network policy: who may read metrics. */}}
{{- define "kvquilt.scraped" -}}
{{- if and .Values.metrics.enabled .Values.metrics.scrapers }}
- from: {{- toYaml .Values.metrics.scrapers | nindent 4 }}
  ports: [{protocol: TCP, port: metrics}]
{{- end }}
{{- end -}}

{{/* Variables of every container of ours: where traces go, and nothing on stderr that is no line of the log. */}}
{{- define "kvquilt.telemetry" -}}
- {name: GRPC_VERBOSITY, value: NONE}
{{- with .Values.tracing }}
{{- if .endpoint }}
- {name: OTEL_EXPORTER_OTLP_ENDPOINT, value: {{ .endpoint | quote }}}
- {name: OTEL_TRACES_SAMPLER, value: parentbased_traceidratio}
- {name: OTEL_TRACES_SAMPLER_ARG, value: {{ .ratio | quote }}}
- name: POD_NAME
  valueFrom: {fieldRef: {fieldPath: metadata.name}}
- {name: OTEL_RESOURCE_ATTRIBUTES, value: k8s.pod.name=$(POD_NAME)}
{{- if .headers.secret }}
- name: OTEL_EXPORTER_OTLP_HEADERS
  valueFrom: {secretKeyRef: {name: {{ .headers.secret | quote }}, key: {{ .headers.key | quote }}}}
{{- end }}
{{- end }}
{{- end }}
{{- end -}}

{{/* Of a network policy: where traces go. */}}
{{- define "kvquilt.traced" -}}
{{- with .Values.tracing }}
{{- if and .endpoint .collectors }}
- to: {{- toYaml .collectors | nindent 4 }}
  ports: [{protocol: TCP, port: {{ regexFind "[0-9]+$" .endpoint }}}]
{{- end }}
{{- end }}
{{- end -}}
