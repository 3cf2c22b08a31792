import 'dart:async';
import 'dart:convert';
import 'dart:io';
import 'dart:math';

import 'own_link.dart';
import 'phone.dart';

/// Where this open should land. [openId] is null if firstopen did not answer: [screen] is the app's `home` then.
class Landing {
  const Landing(this.screen, {this.params = const {}, this.url, this.reason, this.clickId, this.openId, this.gate});

  final String screen;
  final Map<String, String> params;
  final String? url;
  final String? reason;
  final String? clickId;
  final String? openId;

  /// Not null: show this screen instead of [screen].
  final Gate? gate;
}

/// Why this build must not be used now: [kind] is `update` (it is too old) or `maintenance`.
class Gate {
  const Gate(this.kind, this.screen, {this.url, this.message});

  final String kind;
  final String screen;
  final String? url;
  final String? message;
}

/// How far a lead got: [status] is `delivered`, `queued` or `organic` (the install came by no click).
class LeadAnswer {
  const LeadAnswer(this.leadId, this.status);

  final String? leadId;
  final String status;
}

/// firstopen refused a request. [retryAfter] is its Retry-After header.
class FirstopenException implements Exception {
  const FirstopenException(this.status, [this.retryAfter]);

  final int status;
  final Duration? retryAfter;

  @override
  String toString() => 'firstopen answered $status';
}

typedef _Json = Map<String, dynamic>;

class _Last {
  _Last(this.url);

  final String? url;
  DateTime? endedAt; // null while the open is under way
}

/// Reports opens and leads to firstopen. Make one, and keep it as long as the app runs.
class Firstopen {
  Firstopen({
    required String baseUrl,
    required this.publishableKey,
    required this.domains,
    required this.phone,
    required this.onError,
    this.home = 'home',
    this.budget = const Duration(milliseconds: 1500),
    this.consent,
    this.mayPaste,
    Future<void> Function(Duration)? sleep,
  })  : baseUrl = baseUrl.replaceFirst(RegExp(r'/+$'), ''),
        _sleep = sleep ?? Future<void>.delayed;

  final String baseUrl, publishableKey;

  /// The app's short link domains, as they stand in a URL. The first is sent as `dubDomain`.
  final List<String> domains;
  final Phone phone;

  /// The screen to show when firstopen has no answer.
  final String home;

  /// How long firstopen may take to answer, 100 to 10,000 ms.
  final Duration budget;

  /// For `ip_matching = "consented"`: whether the person agreed to be matched by IP address.
  final bool? consent;

  /// Asks the person; called on a first launch only, and only if there is text on the clipboard. Null: never read.
  final Future<bool> Function()? mayPaste;

  /// Receives errors, to log them. The launch goes on.
  final void Function(Object error) onError;

  /// Called at most once per open, if its final answer differs from the one that [start] or [opened] returned.
  /// Not called after another open or after [movedOn], so it is safe to navigate here.
  void Function(Landing landing) onLate = (_) {};

  final Future<void> Function(Duration) _sleep;
  Future<Landing>? _started;
  Future<String>? _installId;
  _Last? _last;
  var _generation = 0; // counts opens and moves: a late answer of an earlier one is dropped

  static const _referrer = Duration(milliseconds: 500); // Google Play usually answers within 100 ms
  static const _network = Duration(milliseconds: 300); // in addition to the budget
  static const _echo = Duration(seconds: 1); // link packages may repeat the link of a cold start in their stream
  static const _late = Duration(seconds: 60); // firstopen looks for a late click for some 30 s
  static const _leadTimeout = Duration(seconds: 10);
  static const _leadWaits = [1, 4, 15, 60]; // seconds

  /// Reports this cold start: the first launch always, later launches only with a link. Never throws.
  ///
  /// Repeated calls in one process return the first answer, so a widget that is rebuilt is harmless.
  Future<Landing> start([Uri? deepLink]) =>
      _started ??= _open(deepLink?.toString()).then((landing) => landing ?? Landing(home));

  /// Reports a link that opened the running app. Never throws.
  ///
  /// Returns null if there is nothing to do: firstopen did not answer, or [start] has reported this link already.
  Future<Landing?> opened(Uri link) async {
    final url = link.toString();
    final last = _last;
    if (last != null && last.url == url) {
      final endedAt = last.endedAt;
      if (endedAt == null || DateTime.now().difference(endedAt) < _echo) return null;
    }
    return _open(url);
  }

  /// Tells that the person has navigated: an answer that arrives later must not move them.
  void movedOn() => _generation++;

  /// Returns this install's id, for your backend to report leads with. Throws if [phone] cannot store it.
  Future<String> installId() async {
    try {
      return await (_installId ??= _readInstallId());
    } catch (_) {
      _installId = null; // the next call tries again
      rethrow;
    }
  }

  /// Reports a lead of this install; the app's settings must say `leads = "client"`.
  ///
  /// Without a network, on 429 and on 5xx it tries again for some 80 s, then throws. To call it again later is safe:
  /// the same [customerExternalId] and [eventName] are one lead for 7 days.
  Future<LeadAnswer> lead({
    required String eventName,
    required String customerExternalId,
    String? customerName,
    String? customerEmail,
    String? customerAvatar,
    Map<String, Object?>? metadata,
  }) async {
    final body = {
      'eventName': eventName,
      'customerExternalId': customerExternalId,
      if (customerName != null) 'customerName': customerName,
      if (customerEmail != null) 'customerEmail': customerEmail,
      if (customerAvatar != null) 'customerAvatar': customerAvatar,
      if (metadata != null) 'metadata': metadata,
      'installId': await installId(),
    };
    for (final seconds in _leadWaits) {
      try {
        return await _sendLead(body);
      } catch (error) {
        if (!_isTemporary(error)) rethrow;
        onError(error);
        await _sleep(_retryAfter(error) ?? Duration(seconds: seconds));
      }
    }
    return _sendLead(body);
  }

  Future<LeadAnswer> _sendLead(Map<String, Object?> body) async {
    final answer = await _call('/v1/leads', _leadTimeout, body);
    return LeadAnswer(answer['leadId'] as String?, answer['status'] as String);
  }

  Future<Landing?> _open(String? deepLink) async {
    final turn = ++_generation;
    final last = _last = _Last(deepLink);
    try {
      final first = await _isFirst();
      if (!first && deepLink == null) return null;
      final answer = await _call('/v1/opens', budget + _network, await _body(deepLink, first));
      final landing = _landing(answer);
      if (first) await _attempt<void>(() => phone.write('firstopen.answered', 'yes'));
      if (answer['pending'] == true) unawaited(_attempt<void>(() => _settle(answer, landing, turn)));
      return landing;
    } catch (error) {
      onError(error);
      return null; // the next launch reports a first open again, with the same install id: that is safe
    } finally {
      last.endedAt = DateTime.now();
    }
  }

  Future<bool> _isFirst() async {
    try {
      return await phone.read('firstopen.answered') == null;
    } catch (error) {
      onError(error);
      return false;
    }
  }

  Future<Map<String, Object?>> _body(String? deepLink, bool first) async {
    final id = await _attempt(installId);
    final installed = await _attempt(phone.installedAt);
    final play =
        first && phone.os == 'android' ? await _attempt(() => phone.installReferrer().timeout(_referrer)) : null;
    final copied = first && phone.os == 'ios' && deepLink == null ? await _attempt(_clipboard) : null;
    return {
      if (deepLink != null) 'deepLink': deepLink,
      if (domains.isNotEmpty) 'dubDomain': domains.first,
      if (id != null) 'installId': id,
      if (phone.os == 'ios' || phone.os == 'android') 'platform': phone.os,
      if (phone.appVersion != null) 'appVersion': phone.appVersion,
      'budgetMs': budget.inMilliseconds,
      if (consent != null) 'consent': consent,
      if (installed != null) 'installedAt': installed.millisecondsSinceEpoch ~/ 1000,
      if (play != null && play.raw != null) 'installReferrer': play.raw,
      if (play != null && play.clickedAt > 0) 'referrerClickedAt': play.clickedAt,
      if (play != null && play.installBeganAt > 0) 'installBeganAt': play.installBeganAt,
      if (copied != null) 'clipboard': copied,
    };
  }

  /// Asks for a pending answer until it is final.
  Future<void> _settle(_Json early, Landing landed, int turn) async {
    var answer = early;
    var wait = _wait(answer) ?? _echo;
    var waited = Duration.zero;
    while (answer['pending'] == true && waited + wait <= _late) {
      await _sleep(wait);
      waited += wait;
      if (_generation != turn) return;
      try {
        answer = await _call('/v1/opens/${landed.openId}', budget + _network);
        wait = _wait(answer) ?? wait;
      } catch (error) {
        onError(error);
        if (!_isTemporary(error)) return;
        wait = _retryAfter(error) ?? wait * 2;
      }
    }
    final shown = [early, answer].map((each) => jsonEncode([each['clickId'], each['route'], each['gate']])).toSet();
    if (_generation == turn && shown.length == 2) onLate(_landing(answer));
  }

  Duration? _wait(_Json answer) {
    final ms = answer['retryAfterMs'] as int?;
    return ms == null ? null : Duration(milliseconds: ms);
  }

  Future<_Json> _call(String path, Duration timeout, [Map<String, Object?>? body]) async {
    final client = HttpClient()..connectionTimeout = timeout;
    try {
      return await _send(client, path, body).timeout(timeout);
    } finally {
      client.close(force: true);
    }
  }

  Future<_Json> _send(HttpClient client, String path, Map<String, Object?>? body) async {
    final request = await client.openUrl(body == null ? 'GET' : 'POST', Uri.parse('$baseUrl$path'));
    request.headers.set(HttpHeaders.authorizationHeader, 'Bearer $publishableKey');
    if (body != null) {
      request.headers.contentType = ContentType.json;
      request.write(jsonEncode(body));
    }
    final response = await request.close();
    final text = await response.transform(utf8.decoder).join();
    if (response.statusCode != HttpStatus.ok && response.statusCode != HttpStatus.accepted) {
      final seconds = int.tryParse(response.headers.value(HttpHeaders.retryAfterHeader) ?? '');
      throw FirstopenException(response.statusCode, seconds == null ? null : Duration(seconds: seconds));
    }
    return jsonDecode(text) as _Json;
  }

  Landing _landing(_Json answer) {
    final route = answer['route'] as _Json;
    final gate = answer['gate'] as _Json?;
    return Landing(
      route['screen'] as String,
      params: Map<String, String>.from(route['params'] as Map),
      url: route['url'] as String?,
      reason: route['reason'] as String?,
      clickId: answer['clickId'] as String?,
      openId: answer['openId'] as String,
      gate: gate == null
          ? null
          : Gate(
              gate['kind'] as String,
              gate['screen'] as String,
              url: gate['url'] as String?,
              message: gate['message'] as String?,
            ),
    );
  }

  Future<String> _readInstallId() async {
    final known = await phone.read('firstopen.installId');
    if (known != null) return known;
    final random = Random.secure();
    final fresh = List.generate(32, (_) => random.nextInt(16).toRadixString(16)).join();
    await phone.write('firstopen.installId', fresh);
    return fresh;
  }

  Future<String?> _clipboard() async {
    // To look for text shows nothing; to read makes iOS ask, so it comes after the app's own question.
    final ask = mayPaste;
    if (ask == null || !await phone.clipboardHasText() || !await ask()) return null;
    final text = await phone.readClipboard();
    return text == null ? null : ownLink(text, domains);
  }

  /// Whether a request may succeed later: no answer at all, 429 or 5xx.
  bool _isTemporary(Object error) => error is FirstopenException
      ? error.status == 429 || error.status >= 500
      : error is IOException || error is TimeoutException;

  Duration? _retryAfter(Object error) => error is FirstopenException ? error.retryAfter : null;

  /// Returns null, and reports the error, if [work] fails.
  Future<T?> _attempt<T>(Future<T?> Function() work) async {
    try {
      return await work();
    } catch (error) {
      onError(error);
      return null;
    }
  }
}
