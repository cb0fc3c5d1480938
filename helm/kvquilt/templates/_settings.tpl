{{/* What stands in kvquilt.yaml of nodes. */}}
{{- define "kvquilt.nodeSettings" -}}
{{- $storage := .Values.storage -}}
{{- $puts := div (include "kvquilt.bytes" .Values.node.workingMemory | int64) 2 -}}
{{- $settings := dict
    "host" .Values.bindAddress
    "port" 7411
    "put_bytes" $puts
    "max_object" (min $puts 1073741824)
    "health_port" 7412
    "path" "/var/lib/kvquilt"
    "store" $storage.objects
    "index" "redis"
    "eviction" "gdsf"
    "capacity" (include "kvquilt.bytes" $storage.capacity | int64)
    "memory_bytes" (include "kvquilt.bytes" .Values.node.memoryTier | int64)
    "drain_seconds" .Values.node.longestStreamSeconds -}}
{{- if .Values.metrics.enabled -}}
{{- $_ := set $settings "metrics_port" 9411 -}}
{{- $_ := set $settings "metrics_host" .Values.bindAddress -}}
{{- end -}}
{{- if .Values.node.disk -}}
{{- $_ := set $settings "hot_store" "file" -}}
{{- $_ := set $settings "hot_capacity" (include "kvquilt.bytes" .Values.node.disk | int64) -}}
{{- end -}}
{{- if eq $storage.objects "object" -}}
{{- $_ := set $settings "object_url" $storage.object.url -}}
{{- with $storage.object.endpoint }}{{ $_ := set $settings "object_endpoint" . }}{{ end -}}
{{- end -}}
{{- if and (not $storage.redis.bundled) $storage.redis.ca.secret -}}
{{- $_ := set $settings "redis_ca" (printf "/etc/kvquilt/redis-ca/%s" $storage.redis.ca.key) -}}
{{- end -}}
{{- if and (not $storage.redis.bundled) $storage.redis.clientCertificate -}}
{{- $_ := set $settings "redis_certificate" "/etc/kvquilt/redis-client/tls.crt" -}}
{{- $_ := set $settings "redis_key" "/etc/kvquilt/redis-client/tls.key" -}}
{{- end -}}
{{- if .Values.encryption.secret -}}
{{- $_ := set $settings "encryption_key_file" (printf "/etc/kvquilt/encryption/%s" .Values.encryption.key) -}}
{{- end -}}
{{- $security := dict "allow_anonymous" true -}}
{{- if ne .Values.tls.mode "none" -}}
{{- $security = dict
    "tls_cert" "/etc/kvquilt/tls/tls.crt"
    "tls_key" "/etc/kvquilt/tls/tls.key"
    "tls_client_ca" "/etc/kvquilt/tls/ca.crt"
    "identities" "/etc/kvquilt/config/identities.yaml" -}}
{{- end -}}
{{- $_ := set $settings "security" $security -}}
{{- toYaml (dict "node" (merge $settings .Values.node.settings) "log" .Values.log) -}}
{{- end -}}

{{/* Whom nodes let in: the routers, in every namespace. */}}
{{- define "kvquilt.nodeIdentities" -}}
{{- $name := include "kvquilt.routerIdentity" . -}}
{{- toYaml (dict $name (dict "identity" "router" "namespaces" (list "*") "public_write" true)) -}}
{{- end -}}

{{/* What stands in kvquilt.yaml of a model's routers: (dict root, model). */}}
{{- define "kvquilt.routerSettings" -}}
{{- $values := .root.Values -}}
{{- $model := .model -}}
{{- $settings := dict
    "host" $values.bindAddress
    "port" 7410
    "health_port" 7412
    "nodes" (list (printf "dns:///%s:7411" (include "kvquilt.nodeHost" .root)))
    "shared_store" true
    "model" $model.path
    "dtype" ($model.dtype | default "float32")
    "device" (ternary "cuda" "cpu" (gt (int ($model.gpus | default 0)) 0))
    "threads" (include "kvquilt.cores" $model.cpu.limit | int64)
    "namespace" $values.router.namespace
    "drain_seconds" $values.router.longestStreamSeconds -}}
{{- if $values.metrics.enabled -}}
{{- $_ := set $settings "metrics_port" 9410 -}}
{{- $_ := set $settings "metrics_host" $values.bindAddress -}}
{{- end -}}
{{- if $values.router.statusPage }}{{ $_ := set $settings "status_port" 7413 }}{{ end -}}
{{- with $model.profile }}{{ $_ := set $settings "profile" . }}{{ end -}}
{{- with $model.gate }}{{ $_ := set $settings "gate" . }}{{ end -}}
{{- $security := dict -}}
{{- if ne $values.tls.mode "none" -}}
{{- $security = dict "tls_cert" "/etc/kvquilt/tls/tls.crt" "tls_key" "/etc/kvquilt/tls/tls.key" -}}
{{- $_ := set $settings "node_credentials" (dict
    "tls_ca" "/etc/kvquilt/node-client/ca.crt"
    "tls_cert" "/etc/kvquilt/node-client/tls.crt"
    "tls_key" "/etc/kvquilt/node-client/tls.key") -}}
{{- end -}}
{{- if eq $values.callers.mode "anonymous" -}}
{{- $_ := set $security "allow_anonymous" true -}}
{{- else if eq $values.callers.mode "tokens" -}}
{{- $_ := set $security "token_key" (printf "/etc/kvquilt/tokens/%s" $values.callers.tokenKey.key) -}}
{{- else -}}
{{- $_ := set $security "tls_client_ca" "/etc/kvquilt/tls/ca.crt" -}}
{{- $_ := set $security "identities" "/etc/kvquilt/config/identities.yaml" -}}
{{- end -}}
{{- $_ := set $settings "security" $security -}}
{{- $of := dict -}}
{{- $further := merge $of ($model.settings | default dict) $values.router.settings -}}
{{- toYaml (dict "router" (merge $settings $further) "log" $values.log) -}}
{{- end -}}
