(func $handle (param "request" (own $request)) (param "response-out" (own $outparam))
  (canon lift (core func $guest "handle")))
(component $face
  (import "request" (type $request (sub resource)))
  (import "outparam" (type $outparam (sub resource)))
  (import "handle" (func $handle (param "request" (own $request)) (param "response-out" (own $outparam))))
  (export $r "incoming-request" (type $request))
  (export $o "response-outparam" (type $outparam))
  (export "handle" (func $handle) (func (param "request" (own $r)) (param "response-out" (own $o)))))
(instance $handler (instantiate $face
  (with "request" (type $request)) (with "outparam" (type $outparam)) (with "handle" (func $handle))))
(export "wasi:http/incoming-handler@0.2.0" (instance $handler))
