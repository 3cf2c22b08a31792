import 'dart:async';
import 'dart:convert';
import 'dart:io';
import 'dart:math';

class Landing {
  const Landing(this.screen, {this.params = const {}, this.url, this.clickId});

  final String screen;
  final Map<String, String> params;
  final String? url;
  final String? clickId;
}

/// What Google Play says of the install: its raw referrer string, and two times in Unix seconds (0 if unknown).
typedef PlayReferrer = ({String? raw, int clickedAt, int installBeganAt});

/// Asks firstopen where this launch should land. Never throws; for a launch screen that waits 2.5 s or longer.
class FirstOpen {
  FirstOpen({
    required this.baseUrl,
    required this.publishableKey,
    required this.domains,
    required this.read,
    required this.write,
    required this.installReferrer,
    required this.installedAt,
    required this.clipboard,
    required this.onError,
    this.onLate,
    this.appVersion,
    this.home = const Landing('home'),
  });

  final String baseUrl, publishableKey;
  final String? appVersion;
  final Landing home;

  /// The app's short link domains, as they stand in a URL.
  final List<String> domains;

  /// Where the installId is kept: somewhere that goes with the app and that no backup carries to a second
  /// phone. flutter_secure_storage with KeychainAccessibility.first_unlock_this_device, and its preferences
  /// left out of Android's backup rules, is; shared_preferences is not.
  final Future<String?> Function(String key) read;
  final Future<void> Function(String key, String value) write;

  /// On Android, the ReferrerDetails of package:android_play_install_referrer; else null.
  final Future<PlayReferrer?> Function() installReferrer;

  /// The installTime of PackageInfo.fromPlatform() (package:package_info_plus).
  final Future<DateTime?> Function() installedAt;

  /// On iOS, if Clipboard.hasStrings() and the person agrees, the text of Clipboard.getData; else null.
  final Future<String?> Function() clipboard;

  /// Gets what failed, to log it; the launch goes on.
  final void Function(Object error) onError;

  /// Called at most once, after [landing], if the click of this launch was found a little later.
  final void Function(Landing landing)? onLate;

  static const _referrer = Duration(milliseconds: 500);
  static const _budget = Duration(milliseconds: 1500);
  static const _network = Duration(milliseconds: 300);

  Future<Landing> landing([Uri? deepLink]) async {
    try {
      final first = await read('firstopen.answered') == null;
      if (!first && deepLink == null) return home;
      final installed = await _orNull(installedAt);
      final play = first && Platform.isAndroid ? await _orNull(() => installReferrer().timeout(_referrer)) : null;
      final text = first && deepLink == null && Platform.isIOS ? await _orNull(clipboard) : null;
      final answer = await _call('/v1/opens', {
        'deepLink': deepLink?.toString(),
        'dubDomain': domains.firstOrNull,
        'installId': await _installId(),
        'platform': Platform.isIOS ? 'ios' : (Platform.isAndroid ? 'android' : null),
        'appVersion': appVersion,
        'budgetMs': _budget.inMilliseconds,
        if (installed != null) 'installedAt': installed.millisecondsSinceEpoch ~/ 1000,
        if (play != null) 'installReferrer': play.raw,
        if (play != null && play.clickedAt > 0) 'referrerClickedAt': play.clickedAt,
        if (play != null && play.installBeganAt > 0) 'installBeganAt': play.installBeganAt,
        if (text != null) 'clipboard': ownLink(text, domains),
      });
      final found = _landing(answer);
      await _orNull<void>(() => write('firstopen.answered', 'yes'));
      final wait = answer['retryAfterMs'] as int?;
      if (answer['pending'] == true && wait != null) {
        Timer(Duration(milliseconds: wait), () => _orNull<void>(() => _askAgain(answer['openId'] as String, found)));
      }
      return found;
    } catch (error) {
      onError(error);
      return home; // and the next launch asks again: with the same installId that is safe
    }
  }

  // Dub may show a click a few seconds late.
  Future<void> _askAgain(String openId, Landing early) async {
    final found = _landing(await _call('/v1/opens/$openId'));
    if (found.clickId != early.clickId) onLate?.call(found);
  }

  Future<Map<String, dynamic>> _call(String path, [Map<String, Object?>? open]) async {
    final client = HttpClient()..connectionTimeout = _budget + _network;
    try {
      return await _send(client, path, open).timeout(_budget + _network);
    } finally {
      client.close(force: true);
    }
  }

  Future<Map<String, dynamic>> _send(HttpClient client, String path, Map<String, Object?>? open) async {
    final request = await client.openUrl(open == null ? 'GET' : 'POST', Uri.parse('$baseUrl$path'));
    request.headers.set(HttpHeaders.authorizationHeader, 'Bearer $publishableKey');
    if (open != null) {
      request.headers.contentType = ContentType.json;
      request.write(jsonEncode(open));
    }
    final response = await request.close();
    final text = await response.transform(utf8.decoder).join();
    if (response.statusCode != HttpStatus.ok) throw HttpException('firstopen answered ${response.statusCode}');
    return jsonDecode(text) as Map<String, dynamic>;
  }

  Landing _landing(Map<String, dynamic> answer) {
    final route = answer['route'] as Map<String, dynamic>;
    return Landing(
      route['screen'] as String,
      params: Map<String, String>.from(route['params'] as Map),
      url: route['url'] as String?,
      clickId: answer['clickId'] as String?,
    );
  }

  /// Returns the first URL in [text] whose host is one of [domains].
  static String? ownLink(String text, List<String> domains) {
    final hosts = domains.map(_bareHost).toSet();
    for (final found in RegExp(r'https?://[a-z0-9._~:/?#@!$&*+,;=%-]+', caseSensitive: false).allMatches(text)) {
      final url = found[0]!.replaceFirst(RegExp(r'[.,:;!?*]+$'), '');
      final uri = Uri.tryParse(url);
      if (uri == null || uri.userInfo.isNotEmpty || url.length > 2048) continue;
      if (hosts.contains(_bareHost(uri.host))) return url;
    }
    return null;
  }

  static String _bareHost(String host) => host.toLowerCase().replaceFirst(RegExp(r'^www\.'), '');

  Future<String> _installId() async {
    final known = await read('firstopen.installId');
    if (known != null) return known;
    final random = Random.secure();
    final fresh = List.generate(32, (_) => random.nextInt(16).toRadixString(16)).join();
    await write('firstopen.installId', fresh);
    return fresh;
  }

  Future<T?> _orNull<T>(Future<T?> Function() work) async {
    try {
      return await work();
    } catch (error) {
      onError(error);
      return null;
    }
  }
}
