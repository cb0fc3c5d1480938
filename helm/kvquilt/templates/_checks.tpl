{{/* What a schema cannot say: values that do not fit each other. */}}
{{- define "kvquilt.checks" -}}
{{- $scaling := .Values.node.autoscaling -}}
{{- if and $scaling.enabled (gt (int $scaling.min) (int $scaling.max)) -}}
{{- fail (printf "expected node.autoscaling.max of at least min, %d; got %d" (int $scaling.min) (int $scaling.max)) -}}
{{- end -}}
{{- include "kvquilt.checkCpu" (dict "where" "node" "cpu" .Values.node.cpu) -}}
{{- $names := dict -}}
{{- range .Values.router.models -}}
{{- if hasKey $names .name -}}{{- fail (printf "expected models of different names; got %q twice" .name) -}}{{- end -}}
{{- $_ := set $names .name true -}}
{{- include "kvquilt.checkCpu" (dict "where" (printf "model %s" .name) "cpu" .cpu) -}}
{{- if and .autoscaling (gt (int .replicas) (int (default dict .autoscaling).max)) -}}
{{- fail (printf "expected autoscaling.max of model %s of at least its replicas, %d; got %d" .name (int .replicas) (int .autoscaling.max)) -}}
{{- end -}}
{{- end -}}
{{- $monitor := .Values.metrics.serviceMonitor -}}
{{- if gt (include "kvquilt.seconds" $monitor.scrapeTimeout | int) (include "kvquilt.seconds" $monitor.interval | int) -}}
{{- fail (printf "expected metrics.serviceMonitor.scrapeTimeout of at most its interval, %s; got %s" $monitor.interval $monitor.scrapeTimeout) -}}
{{- end -}}
{{- if eq .Values.tls.mode "certManager" -}}
{{- $manager := .Values.tls.certManager -}}
{{- range $name := list "duration" "clientDuration" -}}
{{- if le (get $manager $name | trimSuffix "h" | int) ($manager.renewBefore | trimSuffix "h" | int) -}}
{{- fail (printf "expected tls.certManager.%s of more than renewBefore, %s; got %s" $name $manager.renewBefore (get $manager $name)) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{- define "kvquilt.seconds" -}}
{{- if hasSuffix "m" . -}}{{ mul (trimSuffix "m" . | int64) 60 }}{{- else -}}{{ trimSuffix "s" . | int64 }}{{- end -}}
{{- end -}}

{{- define "kvquilt.millicores" -}}
{{- if hasSuffix "m" . -}}{{ trimSuffix "m" . | int64 }}{{- else -}}{{ mul (int64 .) 1000 }}{{- end -}}
{{- end -}}

{{- define "kvquilt.checkCpu" -}}
{{- if gt (include "kvquilt.millicores" .cpu.request | int64) (include "kvquilt.millicores" .cpu.limit | int64) -}}
{{- fail (printf "expected cpu.request of %s of at most its limit, %s; got %s" .where .cpu.limit .cpu.request) -}}
{{- end -}}
{{- end -}}
